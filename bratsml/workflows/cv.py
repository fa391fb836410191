"""``cv``: one parent run, one child run per fold, and what the folds say together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bratsml.compute.device import count_gpus
from bratsml.compute.launcher import MISTAKE_EXIT_CODE, Job, Outcome
from bratsml.data.extra import split_of
from bratsml.data.folds import Split
from bratsml.errors import BratsmlError, ConfigError, TrackingError
from bratsml.evaluation.evaluate import case_table, summarize
from bratsml.evaluation.intervals import bootstrap_mean
from bratsml.evaluation.kept import kept_path, load_probabilities
from bratsml.figures.calibration import reliability_figure
from bratsml.figures.curves import fold_curves, fold_table_figure
from bratsml.labels import get_scheme
from bratsml.metrics import METRIC_VERSION
from bratsml.metrics.calibration import Reliability
from bratsml.tracking.mlflow_tracker import find_finished_run, open_run
from bratsml.tracking.tracker import Tracker
from bratsml.workflows.arguments import whole_number
from bratsml.workflows.console import say, warn
from bratsml.workflows.estimate import estimate, say_estimate
from bratsml.workflows.fold import (
    PROBABILITIES_FOLDER,
    RESULT_FILE,
    SCORES_FILE,
    FoldJob,
    describe_setup,
    fingerprint,
)
from bratsml.workflows.fold_board import FoldBoard
from bratsml.workflows.fold_table import fold_table, print_fold_table
from bratsml.workflows.records import find_record, load_scores
from bratsml.workflows.request import Prepared, Request, prepare
from bratsml.workflows.start import Start
from bratsml.workflows.start_weights import StartWeights
from bratsml.workflows.view import say_how_to_view

CURVES = ("train/loss", "val/loss", "val/dice/ET", "val/dice/TC", "val/dice/WT", "val/dice/mean")


@dataclass(frozen=True)
class CrossValidation:
    """One cross-validation: what it is made of and where its folds work."""

    prepared: Prepared
    split: Split
    folder: Path
    weights: tuple[StartWeights, ...] = ()

    def fold_folder(self, fold: int) -> Path:
        """Folder of one fold's checkpoints, results and log."""
        return self.folder / f"fold_{fold}"

    @property
    def folds(self) -> range:
        """Fold numbers."""
        return range(len(self.split.folds))

    def result(self, fold: int) -> dict[str, Any] | None:
        """What a finished fold left behind, or ``None``."""
        path = self.fold_folder(fold) / RESULT_FILE
        return find_record(path) or None


def cross_validate(request: Request, folds: str = "") -> str:
    """Run or finish a cross-validation; returns the parent's run id.

    Folds that an earlier start of the same request finished are kept; the others are resumed. A
    fold that fails leaves the others standing.

    Raises:
        BratsmlError: Bad input, before any work; or folds failed, after the others are done.
    """
    shorthand = {"split": {"folds": whole_number("folds", folds, 2)}} if folds else {}
    return run_cv(prepare(request, shorthand), Start(fork=request.fork))


def run_cv(prepared: Prepared, start: Start) -> str:
    """Run or finish the cross-validation of a prepared experiment; returns its run id.

    Raises:
        BratsmlError: See :func:`cross_validate`.
    """
    experiment, store = prepared.experiment, prepared.store
    start.require_weights(experiment.transfer)
    split = split_of(store, experiment.split)
    key = fingerprint("cv", experiment, store, split)
    finished = None if start.fork else find_finished_run(key, root=prepared.root)
    if finished:
        say(f"already done: run {finished} is this cross-validation; --fork runs it anew")
        return finished
    tracker = open_run(
        command="cv",
        experiment_name="bratsml",
        run_name=start.name or f"cv {experiment.name}",
        fingerprint=key,
        root=prepared.root,
        fork=start.fork,
        parent=start.parent,
    )
    folder = prepared.root / "outputs" / f"cv-{experiment.name}-{tracker.run_id[:8]}"
    start.opened(tracker.run_id, folder)
    run = CrossValidation(prepared, split, folder, start.weights)
    tracker.set_tags(start.tags)
    try:
        outcomes = _run_folds(run, tracker, start.beside)
        _summarize(run, outcomes, tracker)
    except BaseException as error:
        tracker.set_tags({"bratsml.error": str(error)[:500] or type(error).__name__})
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt | Stopped) else "FAILED")
        raise
    tracker.finish("FINISHED")
    say_how_to_view(prepared.root, tracker)
    return tracker.run_id


class Stopped(BratsmlError):
    """The work was asked to stop; everything is saved."""


def _run_folds(run: CrossValidation, tracker: Tracker, beside: int) -> list[Outcome]:
    prepared = run.prepared
    describe_setup(tracker, prepared.experiment, prepared.store, run.split)
    tracker.log_params({"num_folds": len(run.split.folds), "num_test": len(run.split.test)})
    missing = [fold for fold in run.folds if run.result(fold) is None]
    if len(missing) < len(run.folds):
        say(f"{len(run.folds) - len(missing)} of {len(run.folds)} folds are already done")
    num_gpus = count_gpus(prepared.experiment.compute)
    launcher = prepared.experiment.launcher.build(num_gpus, beside)
    say_estimate(
        estimate(prepared.experiment, prepared.store, run.split),
        num_folds=len(missing),
        parallel=launcher.parallel,
    )
    jobs = [_job(run, fold, tracker.run_id) for fold in missing]
    total = prepared.experiment.train.epochs
    with FoldBoard([run.fold_folder(fold) for fold in run.folds], total, tracker) as board:
        outcomes = launcher.run(jobs, board.update)
    _refuse_unfinished(run, outcomes)
    return outcomes


def _job(run: CrossValidation, fold: int, parent_run: str) -> Job:
    folder = run.fold_folder(fold)
    record = folder / "job.json"
    FoldJob(
        experiment=run.prepared.experiment.tree(),
        store=str(run.prepared.store.path),
        split=run.split.to_tree(),
        fold=fold,
        parent_run=parent_run,
        root=str(run.prepared.root),
        folder=str(folder),
        score_untrained=run.prepared.is_phantom,
        start=run.weights[fold].to_tree() if run.weights else None,
    ).save(record)
    return Job(f"fold {fold}", "bratsml.workflows.fold", record, folder / "fold.log")


def _refuse_unfinished(run: CrossValidation, outcomes: Sequence[Outcome]) -> None:
    """Say which folds are missing and why, when some are."""
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    for outcome in failed:
        warn(f"{outcome.job.name} failed: {outcome.last_line}")
    missing = [fold for fold in run.folds if run.result(fold) is None]
    if failed:
        is_mistake = all(outcome.exit_code == MISTAKE_EXIT_CODE for outcome in failed)
        reason = failed[0].last_line.removeprefix("bratsml: ")
        raise (ConfigError if is_mistake else TrackingError)(
            f"{len(failed)} of {len(run.folds)} folds failed: {reason} (logs in "
            f"{run.folder.name}/fold_*/fold.log); the others are kept, the same command runs what "
            "is missing"
        )
    if missing:
        raise Stopped(
            f"stopped with {len(run.folds) - len(missing)} of {len(run.folds)} folds done; "
            "everything is saved, the same command goes on"
        )


def _summarize(run: CrossValidation, outcomes: Sequence[Outcome], tracker: Tracker) -> None:
    """Fold table, out-of-fold scores per case, fold-mean curves, description."""
    results = [run.result(fold) for fold in run.folds]
    table = pd.concat(
        [load_scores(run.fold_folder(fold) / SCORES_FILE).assign(fold=fold) for fold in run.folds],
        ignore_index=True,
    )
    summary = fold_table(table)
    before = "start" if run.weights else "untrained"
    dice_before = _dice_before(run, before)
    print_fold_table(summary, dice_before, before)
    tracker.log_table(table, "scores/out_of_fold")
    tracker.log_table(summary, "scores/folds")
    metrics = summarize(case_table(table.to_dict("records")), "oof")
    metrics |= _log_calibration(run, tracker)
    means = table.groupby("case")["dice"].mean().to_numpy()
    low, high = bootstrap_mean(means, seed=run.prepared.experiment.seed)
    metrics |= {"oof/dice/mean_low95": low, "oof/dice/mean_high95": high}
    if dice_before is not None:
        metrics[f"{before}/dice/mean"] = dice_before
    tracker.log_metrics(metrics, step=0)
    say(
        f"out-of-fold mean Dice {metrics['oof/dice/mean']:.3f} over {len(means)} cases "
        f"(95 % bootstrap interval {low:.3f} to {high:.3f}); test split of "
        f"{len(run.split.test)} not opened"
    )
    children = [tracker.child(f"fold {r['fold']}", key=f"fold_{r['fold']}") for r in results if r]
    curves = _fold_mean_curves(children, tracker)
    tracker.log_figure(fold_curves(curves), "curves")
    tracker.log_figure(fold_table_figure(summary), "fold_table")
    tracker.describe(_description(run, summary, metrics))


def _log_calibration(run: CrossValidation, tracker: Tracker) -> dict[str, float]:
    """Reliability curves of the out-of-fold probabilities, when the folds kept them.

    Returns:
        ``oof/calibration_error/REGION``, over the voxels of at least 5 % probability.
    """
    prepared = run.prepared
    if not prepared.experiment.evaluation.keep_probabilities:
        return {}
    store, scheme = prepared.store, get_scheme(prepared.store.label_scheme)
    output = prepared.experiment.output.build(scheme)
    by_region = {region: Reliability() for region in output.regions}
    for fold, cases in enumerate(run.split.folds):
        for case_id in cases:
            folder = run.fold_folder(fold) / PROBABILITIES_FOLDER
            kept = load_probabilities(kept_path(folder, case_id))
            label = store.label(case_id)
            assert label is not None  # the fold was validated on it
            reference = scheme.region_stack(np.asarray(label), output.regions)
            regional = output.region_probabilities(torch.from_numpy(kept)).clamp(0, 1).numpy()
            for place, reliability in enumerate(by_region.values()):
                reliability.add(regional[place], reference[place])
    errors = {region: found.error(first_bin=1) for region, found in by_region.items()}
    curves = {
        region: (list(found.confidence), list(found.accuracy))
        for region, found in by_region.items()
    }
    tracker.log_figure(reliability_figure(curves, errors), "calibration")
    return {
        f"oof/calibration_error/{region}": error
        for region, error in errors.items()
        if not np.isnan(error)
    }


def _dice_before(run: CrossValidation, name: str) -> float | None:
    """Mean over folds of the Dice before training, where all measured it."""
    values = []
    for fold in run.folds:
        path = run.fold_folder(fold) / f"{name}.json"
        metrics = find_record(path)
        if f"{name}/dice/mean" not in metrics:  # a policy may leave all its cases out
            return None
        values.append(metrics[f"{name}/dice/mean"])
    return float(np.mean(values))


def _fold_mean_curves(children: Sequence[Tracker], tracker: Tracker) -> pd.DataFrame:
    """Log the mean over folds of every curve on the parent, for the epochs that all folds have.

    Returns the folds' curves in long form: ``fold``, ``metric``, ``epoch``, ``value``.
    """
    rows: list[dict[str, Any]] = []
    for fold, child in enumerate(children):
        for name in CURVES:
            rows += [
                {"fold": fold, "metric": name, "epoch": step, "value": value}
                for step, value in child.history(name)
            ]
    curves = pd.DataFrame(rows, columns=["fold", "metric", "epoch", "value"])
    for epoch, of_epoch in curves.groupby("epoch"):
        complete = {
            str(name): float(values.mean())
            for name, values in of_epoch.groupby("metric")["value"]
            if len(values) == len(children)
        }
        if complete:
            tracker.log_metrics(complete, step=int(str(epoch)))
    return curves


def _description(run: CrossValidation, summary: pd.DataFrame, metrics: dict[str, float]) -> str:
    experiment = run.prepared.experiment
    header = " | ".join(str(name) for name in summary.columns)
    lines = [
        f"**{experiment.name}**: {len(run.folds)}-fold cross-validation of "
        f"`{experiment.model.kind}` on {sum(map(len, run.split.folds))} cases.",
        *([f"Started from {run.weights[0].named}."] if run.weights else []),
        "",
        f"| {header} |",
        "|" + "---|" * len(summary.columns),
    ]
    for row in summary.itertuples(index=False):
        cells = (f"{v:.4f}" if isinstance(v, float) else str(v) for v in row)
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Out-of-fold mean Dice {metrics['oof/dice/mean']:.4f} "
        f"(95 % bootstrap interval over cases {metrics['oof/dice/mean_low95']:.4f} to "
        f"{metrics['oof/dice/mean_high95']:.4f}). Metrics: {METRIC_VERSION}. Each fold's "
        "checkpoint was chosen on its own validation cases, so these numbers lean to the good "
        f"side; the test split ({len(run.split.test)} cases) has not been opened.",
    ]
    return "\n".join(lines)
