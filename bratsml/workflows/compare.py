"""``compare``: are two or more results on the same cases different, and for whom?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from bratsml.data.case_names import parse_case_id
from bratsml.errors import ConfigError, TrackingError
from bratsml.evaluation.compare import compare, mean_over_seeds, noise_floor
from bratsml.evaluation.ranking import permutation_p, rank_results
from bratsml.evaluation.subgroups import case_changes, subgroup_changes
from bratsml.figures.comparison import UNITS, difference_figure, slopes_figure
from bratsml.figures.curves import cell, table_figure
from bratsml.tracking.mlflow_tracker import open_run
from bratsml.tracking.runs import RecordedRun, find_run, read_table_artifact
from bratsml.tracking.store import project_root
from bratsml.tracking.tracker import Tracker
from bratsml.workflows.change_pictures import change_pictures
from bratsml.workflows.console import console, say
from bratsml.workflows.view import say_how_to_view

SCORES_OF: Mapping[str, str] = {
    "cv": "scores/out_of_fold.csv",
    "train": "scores/validation.csv",
    "ensemble": "scores/test.csv",
}
"""Command of a run to the table that holds its scores."""
MUST_AGREE = ("metric_version", "dataset.hash", "split.hash")
"""Parameters without which scores mean different things."""
NOT_A_DIFFERENCE = ("seed", "name", "launcher.", "loader.workers", "train.profile", "model.param")
"""Parameters in which runs of one configuration may differ."""


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in the seed at most, and their scores."""

    name: str
    runs: tuple[RecordedRun, ...]
    tables: tuple[pd.DataFrame, ...]

    @property
    def scores(self) -> pd.DataFrame:
        """Case x region table, the mean over seeds."""
        return mean_over_seeds(self.tables)


def compare_runs(run_ids: Sequence[str]) -> str:
    """Compare runs pairwise; returns the id of the run that holds the report.

    Runs of one configuration with several seeds are averaged per case, and give the noise floor.

    Raises:
        ConfigError: Fewer than two runs, or the same one twice.
        TrackingError: A run is missing, unfinished or has no scores; or two runs cannot be
            compared, saying in what they differ.
        DataError: They score other cases.
    """
    if len(set(run_ids)) < 2:
        raise ConfigError("compare needs two different runs or more: bratsml compare RUN RUN")
    root = project_root()
    runs = [find_run(run_id, root) for run_id in dict.fromkeys(run_ids)]
    require_comparable(runs)
    configurations = group_by_configuration(runs, [_scores(run, root) for run in runs])
    tracker = open_run(
        command="compare",
        experiment_name="bratsml",
        run_name="compare " + " and ".join(c.name for c in configurations),
        fingerprint="",
        root=root,
        fork=True,
    )
    try:
        _report(configurations, tracker)
    except BaseException as error:
        tracker.set_tags({"bratsml.error": str(error)[:500] or type(error).__name__})
        tracker.finish("FAILED")
        raise
    tracker.finish("FINISHED")
    say_how_to_view(root, tracker)
    return tracker.run_id


def require_comparable(runs: Sequence[RecordedRun]) -> None:
    """Refuse runs whose scores mean different things.

    Raises:
        TrackingError: Naming the two runs and what differs between them.
    """
    first = runs[0]
    for run in runs:
        if run.status != "FINISHED":
            raise TrackingError(f"run {run.run_id} is {run.status}, not finished; finish it first")
        command = _command(run)
        if command not in SCORES_OF:
            raise TrackingError(
                f"run {run.run_id} ({run.name}) has no scores; name a cv, train or ensemble run"
            )
        if command != _command(first):
            raise TrackingError(
                f"run {first.run_id} is of {_command(first)} and {run.run_id} of {command}: they "
                "score different cases; compare runs of one kind"
            )
        for name in MUST_AGREE:
            ours, theirs = first.params.get(name), run.params.get(name)
            if ours != theirs:
                raise TrackingError(
                    f"runs {first.run_id} and {run.run_id} differ in {name} ({ours} and "
                    f"{theirs}); run one of them again with the other's"
                )


def group_by_configuration(
    runs: Sequence[RecordedRun], tables: Sequence[pd.DataFrame]
) -> list[Configuration]:
    """Runs that differ in the seed at most become one configuration, in the order given."""
    groups: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for index, run in enumerate(runs):
        key = tuple(sorted(i for i in run.params.items() if not i[0].startswith(NOT_A_DIFFERENCE)))
        groups.setdefault(key, []).append(index)
    names = [runs[indices[0]].name for indices in groups.values()]
    found = []
    for indices, name in zip(groups.values(), names, strict=True):
        run_id = runs[indices[0]].run_id
        found.append(
            Configuration(
                name if names.count(name) == 1 else f"{name} {run_id[:6]}",
                tuple(runs[i] for i in indices),
                tuple(tables[i] for i in indices),
            )
        )
    return found


def _scores(run: RecordedRun, root: Path) -> pd.DataFrame:
    table = read_table_artifact(run, SCORES_OF[_command(run)], root)
    if "model" in table:
        table = table[table["model"] == "ensemble"].drop(columns="model")
    return table.reset_index(drop=True)


def _command(run: RecordedRun) -> str:
    return run.tags.get("bratsml.command", "")


def _report(configurations: Sequence[Configuration], tracker: Tracker) -> None:
    """Print and log noise floors, pairs, and the ranking of all."""
    content: dict[str, Any] = {
        "configurations": {c.name: [run.run_id for run in c.runs] for c in configurations}
    }
    tracker.log_params({f"compare.{i}": c.name for i, c in enumerate(configurations)})
    figures: list[Any] = []
    lines: list[str] = []
    for configuration in configurations:
        if len(configuration.tables) > 1:
            floor = noise_floor(configuration.tables)
            title = f"{configuration.name}: {len(configuration.tables)} seeds (noise floor)"
            print_table(floor, title)
            figures.append(table_figure(floor, title))
            content[f"noise floor of {configuration.name}"] = floor.to_dict("records")
    if len(configurations) == 1:
        lines.append("all runs are of one configuration: there is a noise floor, and no comparison")
        say(lines[-1])
    pairs = list(combinations(configurations, 2))
    for first, second in pairs:
        pair_figures, pair_content, sentences = _compare_pair(first, second, len(pairs), tracker)
        figures += pair_figures
        content[f"{first.name} / {second.name}"] = pair_content
        lines += sentences
    if len(configurations) > 1:
        tables = {c.name: c.scores for c in configurations}
        ranks, chances = rank_results(tables), permutation_p(tables)
        print_table(ranks, "Mean rank over cases, regions and metrics")
        figures += [
            table_figure(ranks, "Mean rank over cases, regions and metrics"),
            table_figure(chances, "Chance of so large a difference in rank (permutation test)"),
        ]
        content["ranks"] = ranks.to_dict("records")
        content["rank permutation test"] = chances.to_dict("records")
    tracker.log_json(_plain(content), "comparison.json")
    tracker.log_figure(figures, "comparison")
    tracker.describe("\n".join(f"- {line}" for line in lines))


def _compare_pair(
    first: Configuration, second: Configuration, num_pairs: int, tracker: Tracker
) -> tuple[list[Any], dict[str, Any], list[str]]:
    """Figures, plain content and sentences of one pair; prints its table."""
    one, two = first.scores, second.scores
    patients = {case: patient_of(case) for case in one["case"]}
    table = compare(one, two, patients, num_pairs=num_pairs)
    changes = case_changes(one, two)
    groups = subgroup_changes(one, changes, {case: _cohort(case) for case in one["case"]})
    title = f"{second.name} minus {first.name}"
    print_table(main_columns(table), title)
    sentences = [sentence(row, first.name, second.name) for row in table.to_dict("records")]
    for line in sentences:
        say(line)
    tracker.log_table(table, f"pairs/{file_name(first.name)}__{file_name(second.name)}")
    names = (first.name, second.name)
    figures = [
        difference_figure(table, first.name, second.name),
        slopes_figure(one, two, names),
        *change_pictures(first.runs[0], second.runs[0], names, changes),
        table_figure(main_columns(table), title),
        table_figure(groups, f"{title}: for whom (mean Dice over regions)"),
        table_figure(changes, f"{title}: by case, worsened first (mean Dice over regions)"),
    ]
    content = {
        "comparison": table.to_dict("records"),
        "subgroups": groups.to_dict("records"),
        "cases": changes.to_dict("records"),
    }
    return figures, content, sentences


def sentence(row: Mapping[str, Any], first: str, second: str) -> str:
    """The verdict in words."""
    unit = " mm" if row["metric"].endswith("_mm") else ""
    name = UNITS[row["metric"]].removesuffix(" (mm)")
    what = f"{name} {row['region']}: {second} minus {first} is {row['difference']:+.4f}{unit}"
    patients = f"{row['num_patients']} patients"
    interval = f"95 % interval {row['low95']:+.4f} to {row['high95']:+.4f} over {patients}"
    if row["verdict"] == "too few to tell":
        return f"{what} ({interval}): too few patients to tell"
    if row["verdict"] == "tie":
        return (
            f"{what} ({interval}): a tie; a difference below "
            f"{row['smallest_detectable']:.4f}{unit} would mostly go unseen"
        )
    better = second if row["verdict"] == "second is better" else first
    return f"{what} ({interval}, corrected p {row['p_corrected']:.3g}): {better} is better"


def file_name(name: str) -> str:
    """A run's name as part of a file's."""
    return "".join(c if c.isalnum() else "_" for c in name)


def main_columns(table: pd.DataFrame) -> pd.DataFrame:
    """What fits a terminal of a comparison; the logged table holds every column."""
    names = {
        "metric": "metric", "region": "region", "mean_first": "first", "mean_second": "second",
        "difference": "change", "low95": "low95", "high95": "high95", "p_corrected": "p",
        "wins": "+", "ties": "=", "losses": "-", "verdict": "verdict",
    }  # fmt: skip
    return table[list(names)].rename(columns=names)


def patient_of(case_id: str) -> str:
    """Patient of a case, as its id tells; an id of no known form is a patient of its own."""
    name = parse_case_id(case_id)
    return name.patient if name else case_id


def _cohort(case_id: str) -> str:
    name = parse_case_id(case_id)
    return name.cohort if name else "unknown"


def print_table(table: pd.DataFrame, title: str) -> None:
    """Print a table; numbers with four decimals, tiny ones by their size."""
    shown = Table(title=title)
    for name in table.columns:
        is_text = table[name].dtype == object or isinstance(table[name].dtype, pd.StringDtype)
        shown.add_column(str(name), justify="left" if is_text else "right")
    for row in table.itertuples(index=False):
        shown.add_row(*(cell(value) for value in row))
    console.print(shown)


def _plain(content: Any) -> Any:
    """As JSON can hold it: NaN becomes ``null``, NumPy numbers plain ones."""
    if isinstance(content, dict):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_plain(value) for value in content]
    if isinstance(content, np.generic):
        content = content.item()
    return None if isinstance(content, float) and np.isnan(content) else content
