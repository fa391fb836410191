"""``missing-modalities``: the folds of a cross-validation scored with modalities taken away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from rich.progress import track
from rich.table import Table

from bratsml.data.augment import ModalityDropout
from bratsml.errors import ConfigError
from bratsml.evaluation.evaluate import case_table, summarize
from bratsml.evaluation.missing_modalities import (
    Subset,
    keep_only,
    name_of,
    subset_table,
    subsets_of,
    worst_single_loss,
)
from bratsml.evaluation.whole_cases import CaseScorer, Predictor
from bratsml.figures.curves import table_figure
from bratsml.figures.missing_modalities import missing_modalities_figure
from bratsml.metrics import METRIC_VERSION
from bratsml.tracking.mlflow_tracker import open_run
from bratsml.tracking.runs import best_checkpoint
from bratsml.tracking.tracker import Tracker
from bratsml.workflows.console import console, say, warn
from bratsml.workflows.out_of_fold import OutOfFold
from bratsml.workflows.trained import Member, load_trained
from bratsml.workflows.view import say_how_to_view


def missing_modalities(run: str, data: str) -> str:
    """Score every fold's network on its validation cases under all subsets of its modalities.

    Returns:
        Id of the run that holds the tables and the heat map.

    Raises:
        TrackingError: As :meth:`OutOfFold.of`; or a fold has no checkpoint.
        ConfigError: The run's data is not known, or its networks read one modality alone.
    """
    work = OutOfFold.of(run, data)
    read = work.experiment.data.modalities
    if len(read) == 1:
        raise ConfigError(f"the networks of this run read {read[0]} alone; nothing can be missing")
    tracker = open_run(
        command="missing-modalities",
        experiment_name="bratsml",
        run_name=f"missing modalities of {work.source.name}",
        fingerprint="",
        root=work.root,
        fork=True,
    )
    try:
        _report(work, tracker)
    except BaseException as error:
        tracker.set_tags({"bratsml.error": str(error)[:500] or type(error).__name__})
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")
    say_how_to_view(work.root, tracker)
    return tracker.run_id


def _report(work: OutOfFold, tracker: Tracker) -> None:
    tracker.log_params({"missing.of": work.source.run_id, "metric_version": METRIC_VERSION})
    scores = score_subsets(work)
    patients = {case: work.store.meta(case).patient for case in scores["case"].unique()}
    table = subset_table(scores, patients)
    title = f"{work.source.name}: Dice over the subsets of modalities"
    console.print(matrix(table, title))
    sentences = [sentence(row) for row in worst_single_loss(table)]
    for line in sentences:
        say(line)
    if not any(isinstance(s, ModalityDropout) for s in work.experiment.loader.augment):
        warn(
            "no patch lacked a modality in this run's training; "
            "the step modality_dropout in loader.augment trains for that"
        )
    tracker.log_table(scores, "scores/missing_modalities")
    tracker.log_table(table, "missing_modalities")
    tracker.log_figure(
        [missing_modalities_figure(table, title), table_figure(_shortened(table), "All numbers")],
        "missing_modalities",
    )
    for name, part in scores.groupby("subset", sort=False):
        # MLflow's names of metrics take no plus sign
        metrics = summarize(part, f"missing/{str(name).replace('+', '_')}")
        tracker.log_metrics({k: v for k, v in metrics.items() if "/dice/" in k}, step=0)
    tracker.describe("\n".join(f"- {line}" for line in sentences))


def score_subsets(work: OutOfFold) -> pd.DataFrame:
    """Case x region rows of every out-of-fold case and subset, with a column ``subset``."""
    rows: list[dict[str, Any]] = []
    for fold, case_id, subset, predictor in _predictors(work):
        scorer = CaseScorer(
            work.store,
            work.folds[fold],
            work.output.scheme,
            work.experiment.evaluation,
            steps=work.experiment.postprocess,
        )
        image = keep_only(work.store.image(case_id), subset)
        whole = predictor.own_grid(image, work.store.meta(case_id))
        scored = scorer.rows(case_id, predictor.output, whole)
        rows += [{"subset": name_of(subset), "fold": fold, **row} for row in scored]
    return case_table(rows)


def matrix(table: pd.DataFrame, title: str) -> Table:
    """Subset x region for the terminal: mean Dice, change from all, and its interval."""
    dice = table[table["metric"] == "dice"]
    shown = Table(title=title, caption="mean (change from all); below, the mean's 95 % range")
    shown.add_column("modalities")
    for region in dict.fromkeys(dice["region"]):
        shown.add_column(str(region), justify="right")
    for subset, part in dice.groupby("subset", sort=False):
        cells = [
            f"{row['mean']:.3f} ({row['difference']:+.3f})\n{row['low95']:.3f} to "
            f"{row['high95']:.3f}"
            for row in part.to_dict("records")
        ]
        shown.add_row(str(subset), *cells)
    return shown


def _shortened(table: pd.DataFrame) -> pd.DataFrame:
    """The table with headings that fit a page; the logged one has the full names."""
    names = {
        "subset": "modalities", "metric": "metric", "region": "region", "num_patients": "patients",
        "num_left_out": "left out", "mean": "mean", "low95": "low95", "high95": "high95",
        "difference": "change", "difference_low95": "its low95", "difference_high95": "its high95",
    }  # fmt: skip
    return table[list(names)].rename(columns=names)


def sentence(row: Mapping[str, Any]) -> str:
    """What the one modality that a region misses most is worth to it."""
    return (
        f"Dice {row['region']} loses most without {row['missing']}: {row['difference']:+.4f} "
        f"(95 % interval {row['difference_low95']:+.4f} to {row['difference_high95']:+.4f} over "
        f"{row['num_patients']} patients)"
    )


def _predictors(work: OutOfFold) -> Iterator[tuple[int, str, Subset, Predictor]]:
    """Everything to score, under a progress bar; one fold's network is in memory at a time."""
    todo = [
        (fold, case_id, subset)
        for fold, cases in enumerate(work.folds)
        for case_id in cases
        for subset in subsets_of(work.experiment.data.modalities)
    ]
    loaded, predictor = -1, None
    for fold, case_id, subset in track(todo, "scoring subsets", console=console):
        if predictor is None or fold != loaded:
            predictor = None  # the last fold's network makes room first
            predictor = _predictor(work, fold)
            loaded = fold
        yield fold, case_id, subset, predictor


def _predictor(work: OutOfFold, fold: int) -> Predictor:
    child = work.fold_run(fold)
    models = load_trained([Member(child.name, best_checkpoint(child, work.root))])
    return next(iter(models.predictors()))[1]
