"""One training run from store to scores: the work of ``train``, and of each fold of ``cv``.

Run as ``python -m bratsml.workflows.fold record.json`` it is a job of a launcher.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor, nn

from bratsml.compute.device import autocast_of, seed_everything
from bratsml.compute.launcher import (
    STOPPED_EXIT_CODE,
    exit_code_of,
    stop_when_parent_ends,
)
from bratsml.config import Tree, build_config, flatten, to_yaml
from bratsml.data.extra import extra_of
from bratsml.data.folds import Split
from bratsml.data.loader import PatchLoader
from bratsml.data.store import Store
from bratsml.errors import BratsmlError
from bratsml.evaluation.evaluate import dice_by_region, typical_cases
from bratsml.evaluation.kept import kept_file, save_probabilities
from bratsml.evaluation.whole_cases import CaseScorer, Predictor, masks_of
from bratsml.experiment import Experiment
from bratsml.figures.overlay import overlay_figure
from bratsml.files import sha256_of_json, stored_name, table_as_csv, write_json, write_text
from bratsml.labels import LabelScheme, get_scheme
from bratsml.losses.deep_supervision import DeepSupervision
from bratsml.metrics import METRIC_VERSION
from bratsml.models.output import Output
from bratsml.models.registry import count_parameters, neighbours_of
from bratsml.tracking.environment import describe_environment
from bratsml.tracking.logged_model import log_segmentation_model
from bratsml.tracking.mlflow_tracker import attach_run
from bratsml.tracking.runs import KEPT_PREFIX
from bratsml.tracking.tracker import Tracker
from bratsml.training.checkpoint import CheckpointFolder, load_checkpoint
from bratsml.training.hooks import Hook, ProgressHook
from bratsml.training.loop import FitResult, Validation, fit
from bratsml.training.transfer import freeze
from bratsml.workflows.attention_note import AttentionNote
from bratsml.workflows.console import say
from bratsml.workflows.records import load_record
from bratsml.workflows.request import open_stores
from bratsml.workflows.start_weights import StartWeights, keep_zeros, take_over

RESULT_FILE = "result.json"
SCORES_FILE = "scores.csv"
PROGRESS_FILE = "progress.json"
PROBABILITIES_FOLDER = "probabilities"


@dataclass(frozen=True)
class FoldJob:
    """The record of one fold: all that a process of its own needs, as JSON."""

    experiment: Tree
    store: str
    split: Tree
    fold: int
    parent_run: str
    root: str
    folder: str
    score_untrained: bool
    start: Tree | None = None

    def save(self, path: Path) -> None:
        """Write the record."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> FoldJob:
        """Read a record back."""
        return load_record(cls, path)


@dataclass(frozen=True)
class FoldWork:
    """The parts of one training run, built and fitting each other."""

    experiment: Experiment
    store: Store
    split: Split
    fold: int
    scheme: LabelScheme
    output: Output
    folder: Path
    start: StartWeights | None = None

    @classmethod
    def build(
        cls,
        experiment: Experiment,
        store: Store,
        split: Split,
        fold: int,
        folder: Path,
        start: StartWeights | None = None,
    ) -> FoldWork:
        """Compose the parts; cheap, nothing is trained."""
        scheme = get_scheme(store.label_scheme)
        output = experiment.output.build(scheme)
        return cls(experiment, store, split, fold, scheme, output, folder, start)

    def model(self) -> nn.Module:
        """A freshly seeded network."""
        seed_everything(self.experiment.seed)
        return self.experiment.build_model(self.output.num_channels)

    def predictor(self, model: nn.Module) -> Predictor:
        """The network as it is applied to whole cases, in the precision it is trained in."""
        compute = self.experiment.compute
        return Predictor(
            model,
            self.output,
            self.experiment.window,
            self.experiment.inference,
            lambda: autocast_of(compute, next(model.parameters()).device),
            self.experiment.data.modalities,
        )

    def target(self, label: Tensor) -> Tensor:
        """What the loss compares logits with, from a batch's label maps ``(N, 1, X, Y, Z)``.

        Slices that are there as neighbours only have no logits and are left out.
        """
        ends = neighbours_of(self.experiment.model)
        return self.output.target(label[..., ends : label.shape[-1] - ends])

    def scorer(self, case_ids: tuple[str, ...], with_loss: bool = False) -> CaseScorer:
        """Scores on those cases."""
        loss = self.experiment.loss.build(self.output.exclusive) if with_loss else None
        experiment = self.experiment
        return CaseScorer(
            self.store, case_ids, self.scheme, experiment.evaluation, loss, experiment.postprocess
        )

    @property
    def checkpoints(self) -> CheckpointFolder:
        """Where this run keeps its checkpoints."""
        return CheckpointFolder(self.folder / "checkpoints")


class EndedEarly(BratsmlError):
    """Raised by a hook: the training is not worth going on with; its run is KILLED, not FAILED."""


def run_fold(
    work: FoldWork,
    tracker: Tracker,
    score_untrained: bool = False,
    hooks: Sequence[Hook] = (),
) -> FitResult:
    """Train, score the best checkpoint on the validation fold, log everything, finish the run.

    Resumes from the folder's last checkpoint by itself. After a request to stop, the run is saved
    and marked KILLED.

    Args:
        hooks: Hear of the training beside the progress display.
    """
    try:
        log_setup(work, tracker)
        model = work.model()
        tracker.log_params({"model.parameters": count_parameters(model)})
        transfer = work.experiment.transfer
        if not work.checkpoints.has_last:  # a resumed training keeps what it has learnt
            if work.start is not None:
                take_over(model, work.start, transfer, tracker)
                _log_before(work, model, tracker, "start")
            elif score_untrained:
                _log_before(work, model, tracker, "untrained")
        freeze(model, transfer)
        if work.start is not None:
            tracker.log_params({"transfer.trained_parameters": count_parameters(model)})
            if transfer.keep_zeros:
                tracker.log_params({"transfer.held_at_zero": keep_zeros(model, work.start)})
        shown = [ProgressHook(f"fold {work.fold}"), ProgressFile(work.folder)]
        result = train_network(work, model, tracker, [*shown, *hooks])
        if result.stopped_by == "signal":
            tracker.finish("KILLED")
            return result
        _log_results(work, model, result, tracker)
        tracker.finish("FINISHED")
        return result
    except EndedEarly:
        tracker.finish("KILLED")
        raise
    except BaseException as error:
        tracker.set_tags({"bratsml.error": str(error)[:500] or type(error).__name__})
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise


def log_setup(work: FoldWork, tracker: Tracker) -> None:
    """What the run is made of: configuration, data, split, code, machine."""
    describe_setup(tracker, work.experiment, work.store, work.split)
    training, validation = work.split.training(work.fold), work.split.validation(work.fold)
    tracker.log_params(
        {"fold": work.fold, "num_training": len(training), "num_validation": len(validation)}
    )


def describe_setup(tracker: Tracker, experiment: Experiment, store: Store, split: Split) -> None:
    """Log configuration, dataset, split, code version and hardware."""
    extra = extra_of(store)
    settings = flatten(experiment.tree())
    del settings["data.extra"]  # where it lies; what it holds is in its hash
    tracker.log_params(settings)
    if extra is not None:
        tracker.log_params(
            {"dataset.extra_hash": extra.dataset_hash[:16], "num_extra": len(extra.case_ids)}
        )
    tracker.log_params(
        {
            "dataset.hash": store.dataset_hash[:16],
            "split.hash": split.hash[:16],
            "metric_version": METRIC_VERSION,
        }
    )
    tracker.log_text(to_yaml(experiment), "experiment.yaml")
    tracker.log_json(split.to_tree(), "split.json")
    tags, environment = describe_environment()
    tracker.set_tags(tags)
    tracker.log_json(environment, "environment.json")


def train_network(
    work: FoldWork, model: nn.Module, tracker: Tracker, hooks: Sequence[Hook]
) -> FitResult:
    """Train on the fold, or go on from its last checkpoint; nothing is said and no run finished."""
    experiment = work.experiment
    loss = DeepSupervision(experiment.loss.build(work.output.exclusive))
    loader = PatchLoader(
        work.store,
        work.split.training(work.fold),
        experiment.loader,
        experiment.seed,
        experiment.data.modalities,
        neighbours_of(experiment.model),
    )
    scorer = work.scorer(work.split.validation(work.fold), with_loss=True)

    def validate(current: nn.Module, epoch: int) -> Validation:
        metrics, table = scorer.score(work.predictor(current), "val")
        # Without any scored case (a policy may leave all out) every epoch counts as equally poor.
        score = metrics.get("val/dice/mean", 0.0)
        return Validation(score=score, metrics=metrics, table=table)

    return fit(
        model=model,
        loss=loss,
        target_of=work.target,
        loader=loader,
        validate=validate,
        optim=experiment.optim,
        schedule=experiment.schedule,
        config=experiment.train,
        compute=experiment.compute,
        checkpoints=work.checkpoints,
        tracker=tracker,
        hooks=[AttentionNote(model, tracker), *hooks],
        config_tree=checkpoint_config(work),
    )


def checkpoint_config(work: FoldWork) -> Tree:
    """What a checkpoint must agree with to be resumed, and needs to be used elsewhere."""
    return {
        "experiment": work.experiment.what_decides_the_result(),
        "dataset_hash": work.store.dataset_hash,
        "split_hash": work.split.hash,
        "fold": work.fold,
        **_hash_of_extra(work.store),
    }


def _hash_of_extra(store: Store) -> dict[str, str]:
    extra = extra_of(store)
    return {"extra_hash": extra.dataset_hash} if extra else {}


def _log_before(work: FoldWork, model: nn.Module, tracker: Tracker, name: str) -> None:
    """Score the network before any training."""
    scorer = work.scorer(work.split.validation(work.fold))
    metrics, _ = scorer.score(work.predictor(model), name)
    tracker.log_metrics(metrics, step=0)
    write_json(work.folder / f"{name}.json", metrics)


def _log_results(work: FoldWork, model: nn.Module, result: FitResult, tracker: Tracker) -> None:
    """Score the best checkpoint once more on the validation fold; tables, pictures, description."""
    best = load_checkpoint(work.checkpoints.best_path)
    model.load_state_dict(best["ema"] or best["model"])
    scorer = work.scorer(work.split.validation(work.fold))
    keep = None
    if work.experiment.evaluation.keep_probabilities:
        keep = partial(_keep_probabilities, work.folder / PROBABILITIES_FOLDER, tracker)
    metrics, table = scorer.score(work.predictor(model), "best", keep, everything=True)
    tracker.log_metrics(metrics, step=result.best_epoch)
    tracker.log_table(table, "scores/validation")
    _log_overlays(work, model, table, tracker)
    log_segmentation_model(tracker, work.checkpoints.best_path, result.best_epoch, metrics)
    _log_kept(work, tracker)
    tracker.describe(_description(work, metrics, result))
    write_text(work.folder / SCORES_FILE, table_as_csv(table))
    write_json(
        work.folder / RESULT_FILE,
        {
            "fold": work.fold,
            "run_id": tracker.run_id,
            "metrics": metrics,
            "best_epoch": result.best_epoch,
            "epochs_done": result.epochs_done,
            "stopped_by": result.stopped_by,
        },
    )


def _log_kept(work: FoldWork, tracker: Tracker) -> None:
    """Record the weights kept for a soup, each with its score in validation."""
    for path in work.checkpoints.kept_paths:
        best = load_checkpoint(path)["best"]
        name = f"{KEPT_PREFIX}{best['epoch']:05d}"
        tracker.log_checkpoint(path, name, best["epoch"], {"kept/score": best["score"]})


def _keep_probabilities(folder: Path, tracker: Tracker, case_id: str, stored: Tensor) -> None:
    path = folder / kept_file(case_id)
    save_probabilities(path, stored.numpy())
    tracker.log_file(path, PROBABILITIES_FOLDER)


def _log_overlays(work: FoldWork, model: nn.Module, table: pd.DataFrame, tracker: Tracker) -> None:
    """Pictures of the worst, median and best validation case by mean Dice over regions."""
    for place, case_id in typical_cases(table).items():
        figure = _overlay(work, model, case_id, place, dice_by_region(table, case_id))
        tracker.log_figure(figure, f"overlays/{place}_{stored_name(case_id)}")


def _overlay(
    work: FoldWork, model: nn.Module, case_id: str, place: str, dice: dict[str, float]
) -> Figure:
    """One case in RAS order, as it is stored."""
    meta = work.store.meta(case_id)
    image = np.array(work.store.image(case_id), dtype=np.float32)
    stored = work.predictor(model).stored_grid(image).numpy()
    masks = masks_of(work.output, stored, work.experiment.postprocess)
    label = np.array(work.store.label(case_id))
    regions = work.output.regions
    reference = work.scheme.region_stack(label, regions)
    title = f"{place}: {case_id}"
    return overlay_figure(image, reference, masks, regions, title, dice, meta.stored_spacing_mm)


def _description(work: FoldWork, metrics: dict[str, float], result: FitResult) -> str:
    lines = [
        f"**{work.experiment.name}**, fold {work.fold}: {result.epochs_done} epochs "
        f"(ended by: {result.stopped_by}), best at epoch {result.best_epoch}.",
        "",
        "| region | Dice | HD95 (mm) |",
        "|---|---|---|",
    ]
    for region in (*work.output.regions, "mean"):
        dice, hd95 = (metrics.get(f"best/{name}/{region}", nan) for name in ("dice", "hd95"))
        lines.append(f"| {region} | {dice:.4f} | {hd95:.2f} |")
    lines += [
        "",
        f"Metrics: {METRIC_VERSION}. The checkpoint was chosen on these same cases, so the numbers "
        "lean to the good side; the test split has not been opened.",
    ]
    return "\n".join(lines)


class ProgressFile(Hook):
    """Writes how far a fold has come, for the parent to show."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / PROGRESS_FILE

    def on_epoch_end(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """Write epoch, target and the last validation Dice."""
        write_json(
            self.path,
            {
                "epoch": epoch + 1,
                "epochs": epochs,
                "seconds": metrics.get("epoch_seconds", 0.0),
                "dice": metrics.get("val/dice/mean"),
            },
        )


def fingerprint(
    command: str, experiment: Experiment, store: Store, split: Split, *more: Any
) -> str:
    """Equal for requests that must give the same result; the key under which runs are resumed."""
    return sha256_of_json(
        [
            command,
            experiment.what_decides_the_result(),
            store.dataset_hash,
            split.hash,
            *more,
            *_hash_of_extra(store).values(),
        ]
    )


def main() -> None:
    """Run the job of a record; exit 143 when it was asked to stop and saved."""
    stop_when_parent_ends()
    job = FoldJob.load(Path(sys.argv[1]))
    try:
        experiment = build_config(Experiment, job.experiment)
        work = FoldWork.build(
            experiment,
            open_stores(Path(job.store), experiment),
            Split.from_tree(job.split),
            job.fold,
            Path(job.folder),
            StartWeights.from_tree(job.start) if job.start else None,
        )
        parent = attach_run(job.parent_run, root=Path(job.root))
        tracker = parent.child(f"{experiment.name}, fold {job.fold}", key=f"fold_{job.fold}")
        result = run_fold(work, tracker, job.score_untrained)
    except BratsmlError as error:
        say(f"bratsml: {error}")
        sys.exit(exit_code_of(error))
    if result.stopped_by == "signal":
        sys.exit(STOPPED_EXIT_CODE)


if __name__ == "__main__":
    main()
