"""``prune``: how many weights of a cross-validation's networks can go, and which layers bear it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from bratsml.config import flatten, to_yaml, with_overrides
from bratsml.data.folds import Split
from bratsml.errors import ConfigError
from bratsml.evaluation.compare import paired_scores
from bratsml.evaluation.evaluate import case_table, summarize
from bratsml.evaluation.intervals import bootstrap_mean
from bratsml.evaluation.whole_cases import CaseScorer, Predictor
from bratsml.figures.curves import table_figure
from bratsml.figures.prune import pruning_figure, sensitivity_figure
from bratsml.files import write_text
from bratsml.metrics import METRIC_VERSION
from bratsml.tracking.logged_model import log_segmentation_model
from bratsml.tracking.mlflow_tracker import open_run
from bratsml.tracking.runs import best_checkpoint, read_json_artifact
from bratsml.tracking.tracker import Tracker
from bratsml.training.checkpoint import CheckpointFolder, load_checkpoint
from bratsml.training.sparsity import (
    compressed_megabytes,
    prunable_weights,
    prune_smallest,
    share_of_zeros,
)
from bratsml.training.transfer import TransferConfig
from bratsml.workflows.console import console, say, warn
from bratsml.workflows.out_of_fold import OutOfFold
from bratsml.workflows.start_weights import SEEN_FILE
from bratsml.workflows.trained import Member, load_trained
from bratsml.workflows.verdict import compare_means, verdict_sentence
from bratsml.workflows.view import say_how_to_view

SHARES = "0.1,0.3,0.5,0.7,0.8,0.9,0.95,0.99"
SENSITIVITY = "0.8"


@dataclass(frozen=True)
class Plan:
    """What is taken away.

    Attributes:
        shares: Of all prunable weights at once, ascending; 0 is always measured too.
        sensitivity: Of one layer's weights at a time; 0 leaves that out.
        keep: Share at which the networks are kept as checkpoints; ``None`` keeps none.
    """

    shares: tuple[float, ...]
    sensitivity: float
    keep: float | None


def prune(run: str, data: str, shares: str, sensitivity: str, keep: str) -> str:
    """Score a cv run's networks on their validation cases with ever more weights set to zero.

    Args:
        run: Id of a ``cv`` run, or ``""`` for the latest finished one.
        data: The data of that run, or ``""`` for where it was then.
        shares, sensitivity, keep: See :class:`Plan`; ``""`` for the usual ones, and to keep none.

    Returns:
        Id of the run that holds tables, figures and, with ``keep``, one pruned network per fold,
        from which ``finetune --set transfer.keep_zeros=true`` goes on.

    Raises:
        BratsmlError: Bad shares, no such run, or other data.
    """
    plan = parse_plan(shares, sensitivity, keep)
    work = OutOfFold.of(run, data)
    tracker = open_run(
        command="prune",
        experiment_name="bratsml",
        run_name=f"pruning of {work.source.name}",
        fingerprint="",
        root=work.root,
        fork=True,
    )
    try:
        _log_setup(work, plan, tracker)
        _report_shares(work, plan, tracker)
        if plan.sensitivity:
            _report_layers(work, plan.sensitivity, tracker)
        if plan.keep is not None:
            _keep_pruned(work, plan.keep, tracker)
    except BaseException as error:
        tracker.set_tags({"bratsml.error": str(error)[:500] or type(error).__name__})
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")
    say_how_to_view(work.root, tracker)
    return tracker.run_id


def parse_plan(shares: str, sensitivity: str, keep: str) -> Plan:
    """The typed shares as numbers.

    Raises:
        ConfigError: One is not from 0 up to, but not including, 1.
    """
    several = {_share("shares", part) for part in (shares or SHARES).split(",")} - {0.0}
    return Plan(
        tuple(sorted(several)),
        _share("sensitivity", sensitivity or SENSITIVITY),
        _share("keep", keep) if keep else None,
    )


def _share(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise ConfigError(
            f"{name} must be shares of the weights from 0 to below 1, such as 0.9, received "
            f"{text.strip()!r}"
        )
    return value


class PrunedFold:
    """One fold's network, which can be pruned and made whole again, and its validation cases."""

    def __init__(self, work: OutOfFold, fold: int) -> None:
        self.work, self.fold = work, fold
        child = work.fold_run(fold)
        self.checkpoint = best_checkpoint(child, work.root)
        models = load_trained([Member(child.name, self.checkpoint)])
        self.predictor: Predictor = next(iter(models.predictors()))[1]
        self.scorer = CaseScorer(
            work.store,
            work.folds[fold],
            work.output.scheme,
            work.experiment.evaluation,
            steps=work.experiment.postprocess,
        )
        self._whole = {name: value.clone() for name, value in self.model.state_dict().items()}

    @property
    def model(self) -> nn.Module:
        """The network as it is now."""
        return self.predictor.model

    def restore(self) -> None:
        """Give it all its weights back."""
        self.model.load_state_dict(self._whole)

    def prune(self, share: float, layer: str = "") -> None:
        """From the whole network, take that share of all prunable weights, or of one layer's."""
        self.restore()
        weights = prunable_weights(self.model)
        prune_smallest([weights[layer]] if layer else list(weights.values()), share)

    def score(self, heard: Callable[[], object]) -> tuple[list[dict[str, Any]], float]:
        """Rows of its validation cases, and seconds of prediction per case."""
        rows: list[dict[str, Any]] = []
        seconds = 0.0
        for case_id in self.work.folds[self.fold]:
            image, meta = self.work.store.image(case_id), self.work.store.meta(case_id)
            start = time.perf_counter()
            whole = self.predictor.own_grid(image, meta)
            seconds += time.perf_counter() - start
            rows += self.scorer.rows(case_id, self.predictor.output, whole)
            heard()
        return rows, seconds / len(self.work.folds[self.fold])


def _log_setup(work: OutOfFold, plan: Plan, tracker: Tracker) -> None:
    tracker.log_params(flatten(work.experiment.tree()))
    tracker.log_params(
        {
            "prune.of": work.source.run_id,
            "prune.shares": list(plan.shares),
            "prune.sensitivity": plan.sensitivity,
            "prune.keep": plan.keep,
            "dataset.hash": work.store.dataset_hash[:16],
            "metric_version": METRIC_VERSION,
        }
    )
    tracker.log_text(to_yaml(work.experiment), "experiment.yaml")


# ------------------------------------------------------------ the whole network, by share


def score_shares(work: OutOfFold, shares: Sequence[float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every out-of-fold case at every share.

    Returns:
        Case x region rows with a column ``share``; and per share and fold the ``megabytes`` of the
        compressed weights, the share of ``zeros`` and the ``seconds`` per case.
    """
    rows: list[dict[str, Any]] = []
    sizes: list[dict[str, Any]] = []
    num_cases = sum(len(cases) for cases in work.folds)
    with Progress(console=console) as progress:
        task = progress.add_task("scoring shares", total=num_cases * len(shares))
        for number in range(len(work.folds)):
            fold = PrunedFold(work, number)
            for share in shares:
                fold.prune(share)
                scored, seconds = fold.score(lambda: progress.advance(task))
                rows += [{"share": share, "fold": number, **row} for row in scored]
                zeros, size = share_of_zeros(fold.model), compressed_megabytes(fold.model)
                sizes.append(
                    {"share": share, "fold": number, "zeros": zeros}
                    | {"megabytes": size, "seconds": seconds}
                )
    return case_table(rows), pd.DataFrame(sizes)


def share_table(
    scores: pd.DataFrame, sizes: pd.DataFrame, patients: dict[str, str]
) -> pd.DataFrame:
    """Per share and region: mean Dice with its interval, change from the whole network, size.

    The unit is the patient, visits averaged. ``change`` and its interval are paired.
    """
    whole = scores[scores["share"] == 0].drop(columns="share")
    rows = []
    for share, part in scores.groupby("share"):
        measured = sizes[sizes["share"] == share]
        for pair in paired_scores(whole, part.drop(columns="share"), patients):
            if pair.metric != "dice":
                continue
            low, high = bootstrap_mean(pair.second, 0)
            change_low, change_high = bootstrap_mean(pair.differences, 0)
            rows.append(
                {
                    "share": share,
                    "region": pair.region,
                    "dice": _mean(pair.second),
                    "low95": low,
                    "high95": high,
                    "change": _mean(pair.differences),
                    "change_low95": change_low,
                    "change_high95": change_high,
                    "megabytes": measured["megabytes"].mean(),
                    "seconds_per_case": measured["seconds"].mean(),
                }
            )
    return pd.DataFrame(rows)


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _report_shares(work: OutOfFold, plan: Plan, tracker: Tracker) -> None:
    scores, sizes = score_shares(work, (0.0, *plan.shares))
    patients = {case: work.store.meta(case).patient for case in scores["case"].unique()}
    table = share_table(scores, sizes, patients)
    title = f"{work.source.name}: weights set to zero"
    console.print(_printed(table, title))
    means = {
        share: part.groupby("case")["dice"].mean().dropna().to_dict()
        for share, part in scores.groupby("share")
    }
    sentences = [
        verdict_sentence(
            "all weights",
            f"{_percent(share)} of them taken",
            compare_means(
                means[0.0], means[share], patients, seed=0, num_pairs=max(len(plan.shares), 1)
            ),
        )
        for share in plan.shares
    ]
    for line in sentences:
        say(line)
    tracker.log_table(scores, "scores/pruned")
    tracker.log_table(table, "pruning")
    tracker.log_figure(
        [pruning_figure(table, title), table_figure(_shortened(table), "All numbers")], "pruning"
    )
    for share, part in scores.groupby("share"):
        metrics = summarize(part, "pruned")
        metrics = {name: value for name, value in metrics.items() if "/dice/" in name}
        metrics["pruned/megabytes"] = sizes[sizes["share"] == share]["megabytes"].mean()
        tracker.log_metrics(metrics, step=round(100 * float(share)))
    tracker.describe(_description(sentences))


def _description(sentences: Sequence[str]) -> str:
    return "\n".join(
        [
            *(f"- {line}" for line in sentences),
            "",
            "Each fold's checkpoint was chosen on these cases with all its weights, which favours "
            f"the whole network a little. Metrics: {METRIC_VERSION}.",
        ]
    )


def _shortened(table: pd.DataFrame) -> pd.DataFrame:
    """The table with headings that fit a page; the logged one has the full names."""
    names = {
        "change_low95": "its low95", "change_high95": "its high95", "megabytes": "MB",
        "seconds_per_case": "s per case",
    }  # fmt: skip
    return table.rename(columns=names)


def _printed(table: pd.DataFrame, title: str) -> Table:
    shown = Table(title=title, caption="mean Dice (paired change, its 95 % interval)")
    shown.add_column("taken", justify="right")
    for region in dict.fromkeys(table["region"]):
        shown.add_column(str(region), justify="right")
    shown.add_column("MB", justify="right")
    shown.add_column("s per case", justify="right")
    for share, part in table.groupby("share"):
        cells = [
            f"{row['dice']:.3f}\n({row['change']:+.3f}, {row['change_low95']:+.3f} to "
            f"{row['change_high95']:+.3f})"
            for row in part.to_dict("records")
        ]
        first = part.iloc[0]
        shown.add_row(
            _percent(share), *cells, f"{first['megabytes']:.2f}", f"{first['seconds_per_case']:.2f}"
        )
    return shown


# ------------------------------------------------------------ one layer at a time


def _report_layers(work: OutOfFold, share: float, tracker: Tracker) -> None:
    table = score_layers(work, share)
    say(_layers_sentence(table, share))
    tracker.log_table(table, "sensitivity")
    title = f"{work.source.name}, fold 0: {_percent(share)} of one layer's weights set to zero"
    tracker.log_figure(sensitivity_figure(table, title), "sensitivity")


def _layers_sentence(table: pd.DataFrame, share: float) -> str:
    """Which layer costs most; NaN where the policy leaves all cases out."""
    scored = table.dropna(subset=["change"])
    if scored.empty:
        return "no case of fold 0 has a Dice, so no layer can be said to cost most"
    worst = scored.loc[scored["change"].idxmin()]
    return (
        f"with {_percent(share)} of one layer taken, {worst['layer']} costs most: "
        f"{worst['change']:+.4f} mean Dice (fold 0)"
    )


def score_layers(work: OutOfFold, share: float) -> pd.DataFrame:
    """Mean Dice of fold 0 when one layer alone is pruned; rows in the network's order.

    Columns ``layer``, ``num_weights``, ``dice`` and ``change`` from the whole network.
    """
    fold = PrunedFold(work, 0)
    weights = prunable_weights(fold.model)
    total = (len(weights) + 1) * len(work.folds[0])
    rows = []
    with Progress(console=console) as progress:
        task = progress.add_task("scoring layers", total=total)

        def mean_dice() -> float:
            scored, _ = fold.score(lambda: progress.advance(task))
            return summarize(case_table(scored), "m").get("m/dice/mean", float("nan"))

        fold.restore()
        whole = mean_dice()
        for name, weight in weights.items():
            fold.prune(share, name)
            dice = mean_dice()
            row = {"layer": name.removesuffix(".weight"), "num_weights": weight.numel()}
            rows.append(row | {"dice": dice, "change": dice - whole})
    return pd.DataFrame(rows)


# ------------------------------------------------------------ networks to go on with


def _keep_pruned(work: OutOfFold, share: float, tracker: Tracker) -> None:
    """One pruned checkpoint per fold, in runs of their own as a cross-validation has them."""
    split = read_json_artifact(work.source, "split.json", work.root)
    tracker.log_json(split, "split.json")
    folder = work.root / "outputs" / f"prune-{tracker.run_id[:8]}"
    write_text(folder / "experiment.yaml", to_yaml(_to_finetune(work)))
    for number in range(len(work.folds)):
        fold = PrunedFold(work, number)
        fold.prune(share)
        child = tracker.child(f"fold {number}, {_percent(share)} pruned", key=f"fold_{number}")
        _save(fold, folder / f"fold_{number}", share, child)
        child.log_json(split, "split.json")
        training = Split.from_tree(split).training(number)
        child.log_params({"fold": number, "num_training": len(training), "prune.share": share})
        _pass_on_what_was_seen(work, number, child)
        child.finish("FINISHED")
    say("the pruned networks are kept; train what is left of them with")
    say(
        f"  bratsml finetune --checkpoint {tracker.run_id} --experiment "
        f"{_shown(folder / 'experiment.yaml', work.root)} --data {work.store.path}"
    )


def _pass_on_what_was_seen(work: OutOfFold, fold: int, child: Tracker) -> None:
    """A fold that was itself fine-tuned has seen more than its split tells."""
    source = work.fold_run(fold)
    start = source.params.get("transfer.start", "[]")
    if start not in ("[]", "()"):
        child.log_params({"transfer.start": start})
        child.log_json(read_json_artifact(source, SEEN_FILE, work.root), SEEN_FILE)


def _to_finetune(work: OutOfFold) -> Any:
    """The experiment at a tenth of its rate and epochs, with the zeros held and nothing else.

    Where extra data lay outside the project is not on record; it is left out then.
    """
    extra = work.experiment.data.extra
    if extra and not (work.root / extra).is_dir():
        warn("where the extra data lies is no longer known; give it to finetune with --extra")
        extra = ""
    rate, epochs = work.experiment.optim.lr / 10, max(1, work.experiment.train.epochs // 10)
    return with_overrides(
        work.experiment,
        {
            "name": f"{work.experiment.name}_pruned",
            "optim": {"lr": rate},
            "train": {"epochs": epochs},
            "data": {"extra": extra},
            "transfer": TransferConfig(keep_zeros=True).tree(),
        },
    )


def _percent(share: float) -> str:
    """``99.5%``: no share below 1 is shown as everything."""
    return f"{100 * share:.6g}%"


def _shown(path: Path, root: Path) -> Path:
    return path.relative_to(root) if path.is_relative_to(root) else path


def _save(fold: PrunedFold, folder: Path, share: float, child: Tracker) -> None:
    """The pruned network as a checkpoint like any other."""
    state = load_checkpoint(fold.checkpoint)
    weights: dict[str, Tensor] = {
        name: value.detach().cpu() for name, value in fold.model.state_dict().items()
    }
    checkpoints = CheckpointFolder(folder)
    checkpoints.save_best(
        {
            "config": {**state["config"], "pruned": share},
            "model": weights,
            "ema": None,
            "position": None,
            "best": state["best"],
        }
    )
    megabytes = {"pruned/megabytes": compressed_megabytes(fold.model)}
    log_segmentation_model(child, checkpoints.best_path, state["best"]["epoch"], megabytes)
