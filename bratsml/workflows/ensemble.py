"""``ensemble``: the folds of a cross-validation, averaged over the held-out test split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
from rich.progress import track
from rich.table import Table
from torch import Tensor

from bratsml.config import flatten
from bratsml.data.folds import Split
from bratsml.data.store import Store
from bratsml.ensembling.ensemble import Average, average
from bratsml.errors import ConfigError, TrackingError
from bratsml.evaluation.evaluate import case_table, summarize
from bratsml.evaluation.intervals import bootstrap_mean
from bratsml.evaluation.whole_cases import CaseScorer, restore_probabilities
from bratsml.metrics import METRIC_VERSION
from bratsml.tracking.mlflow_tracker import open_run
from bratsml.tracking.runs import RecordedRun, find_run, latest_run, read_json_artifact
from bratsml.tracking.store import project_root
from bratsml.tracking.tracker import Tracker
from bratsml.workflows.console import console, say
from bratsml.workflows.request import store_of_run
from bratsml.workflows.trained import TrainedModels, load_trained, members_of_runs
from bratsml.workflows.view import say_how_to_view

ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class TestSplit:
    """The cases that neither training nor any choice has seen."""

    __test__ = False  # not a test class, whatever pytest thinks of its name

    store: Store
    case_ids: tuple[str, ...]


def ensemble(run: str, data: str, average: str, postprocess: str = "") -> str:
    """Score every fold and their average on the test split; returns the run id.

    Args:
        run: Id of a ``cv`` run, or ``""`` for the latest finished one.
        data: The data of that run, or ``""`` for where it was then.
        average: ``probabilities`` or ``logits``.
        postprocess: File of steps; the experiment's own if empty.

    Raises:
        BratsmlError: No such run, other data, or no test split.
    """
    kind = _average_kind(average or "probabilities")
    root = project_root()
    source = find_run(run, root) if run else latest_run("cv", root)
    if not source.children:
        raise TrackingError(f"run {source.run_id} has no folds; name a finished cv run")
    models = load_trained(members_of_runs([source.run_id], root)).postprocessed(postprocess)
    test = _test_split(source, models, data, root)
    tracker = open_run(
        command="ensemble",
        experiment_name="bratsml",
        run_name=f"ensemble of {source.name}",
        fingerprint="",
        root=root,
        fork=True,
    )
    try:
        _log_setup(tracker, source, models, kind)
        table = score_members(models, test, kind)
        _log_scores(tracker, table, models)
    except BaseException as error:
        tracker.set_tags({"bratsml.error": str(error)[:500] or type(error).__name__})
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")
    say_how_to_view(root, tracker)
    return tracker.run_id


def score_members(models: TrainedModels, test: TestSplit, kind: Average) -> pd.DataFrame:
    """Case x region table of every member and of their average, with a ``model`` column."""
    experiment = models.experiment
    scorer = CaseScorer(
        test.store,
        test.case_ids,
        models.scheme,
        experiment.evaluation,
        steps=experiment.postprocess,
    )
    rows: list[dict[str, object]] = []
    for case_id in track(test.case_ids, "test cases", console=console):
        rows += _score_case(models, scorer, case_id, kind)
    return with_difference(case_table(rows))


def _score_case(
    models: TrainedModels, scorer: CaseScorer, case_id: str, kind: Average
) -> list[dict[str, object]]:
    """Rows of one case: each member's as it is predicted, then the average's."""
    rows: list[dict[str, object]] = []
    image, meta = scorer.store.image(case_id), scorer.store.meta(case_id)

    def score(name: str, stored: Tensor) -> Tensor:
        whole = restore_probabilities(stored.numpy(), meta, models.output)
        scored = scorer.rows(case_id, models.output, whole, everything=True)
        rows.extend({"model": name, **row} for row in scored)
        return stored

    members = (
        score(member.name, predictor.stored_grid(image))
        for member, predictor in models.predictors()
    )
    score(ENSEMBLE, average(members, kind, models.output.exclusive))
    return rows


def with_difference(table: pd.DataFrame) -> pd.DataFrame:
    """Add ``dice_gain``: the ensemble's Dice minus this model's, per case and region."""
    reference = table[table["model"] == ENSEMBLE].set_index(["case", "region"])["dice"]
    keys = pd.MultiIndex.from_frame(table[["case", "region"]])
    return table.assign(dice_gain=reference.loc[keys].to_numpy() - table["dice"].to_numpy())


def _average_kind(text: str) -> Average:
    if text not in get_args(Average):
        raise ConfigError(f"average must be probabilities or logits, received {text!r}")
    return "logits" if text == "logits" else "probabilities"


def _test_split(source: RecordedRun, models: TrainedModels, data: str, root: Path) -> TestSplit:
    split = Split.from_tree(read_json_artifact(source, "split.json", root))
    if not split.test:
        raise ConfigError(
            f"run {source.run_id} held out no test cases (split.test_fraction=0); "
            "cross-validate with a test split"
        )
    store = store_of_run(source, data, models.experiment, root)
    return TestSplit(store, split.test)


def _log_setup(tracker: Tracker, source: RecordedRun, models: TrainedModels, kind: Average) -> None:
    tracker.log_params(flatten(models.experiment.tree()))
    tracker.log_params(
        {
            "ensemble.of": source.run_id,
            "ensemble.members": len(models.members),
            "ensemble.average": kind,
            "metric_version": METRIC_VERSION,
        }
    )


def _log_scores(tracker: Tracker, table: pd.DataFrame, models: TrainedModels) -> None:
    tracker.log_table(table, "scores/test")
    by_model = {str(name): part for name, part in table.groupby("model", sort=False)}
    tracker.log_metrics(summarize(by_model[ENSEMBLE], "test"), step=0)
    shown = Table(title=f"Dice on the test split ({table['case'].nunique()} cases)")
    for name in ("model", *models.output.regions, "mean"):
        shown.add_column(name, justify="left" if name == "model" else "right")
    lines = [
        "| model | " + " | ".join(models.output.regions) + " | mean |",
        "|" + "---|" * (len(models.output.regions) + 2),
    ]
    for name, part in by_model.items():
        dice = [float(part[part["region"] == r]["dice"].mean()) for r in models.output.regions]
        cells = [f"{value:.3f}" for value in (*dice, float(np.mean(dice)))]
        shown.add_row(name, *cells)
        lines.append(f"| {name} | {' | '.join(cells)} |")
        if name != ENSEMBLE:
            key = "".join(c if c.isalnum() else "_" for c in name)
            tracker.log_metrics({f"test/members/{key}/dice/mean": float(np.mean(dice))}, step=0)
    console.print(shown)
    sentence = _gain_sentence(table)
    say(sentence)
    tracker.describe("\n".join([*lines, "", f"{sentence} Metrics: {METRIC_VERSION}."]))


def _gain_sentence(table: pd.DataFrame) -> str:
    """The ensemble against the mean of its members, with its uncertainty over cases."""
    gains = table[table["model"] != ENSEMBLE].groupby("case")["dice_gain"].mean().to_numpy()
    mean = float(gains.mean())
    if len(gains) < 2:
        return (
            f"ensemble minus mean member: {mean:+.4f} Dice on one case; one case decides nothing."
        )
    low, high = bootstrap_mean(gains, seed=0)
    verdict = "a difference" if low > 0 or high < 0 else "a tie"
    return (
        f"ensemble minus mean member: {mean:+.4f} Dice "
        f"(95 % bootstrap interval over {len(gains)} cases {low:+.4f} to {high:+.4f}): {verdict}."
    )
