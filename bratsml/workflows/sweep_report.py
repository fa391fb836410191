"""What the combinations of a sweep reached, and whether the top one beats the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bratsml.compute.queue import Entry
from bratsml.errors import BratsmlError, TrackingError
from bratsml.evaluation.compare import compare
from bratsml.evaluation.intervals import bootstrap_mean
from bratsml.figures.comparison import difference_figure
from bratsml.figures.curves import table_figure
from bratsml.figures.sweep import scores_figure, settings_figure
from bratsml.tracking.runs import RecordedRun, find_run, read_table_artifact
from bratsml.tracking.tracker import Tracker
from bratsml.workflows.compare import SCORES_OF, main_columns, require_comparable
from bratsml.workflows.console import warn
from bratsml.workflows.sweep_board import count
from bratsml.workflows.sweep_job import JobRun
from bratsml.workflows.sweep_plan import Sweep, shown
from bratsml.workflows.verdict import compare_means, verdict_sentence

MEAN = "dice_mean"


@dataclass(frozen=True)
class Verdict:
    """The top combination against the first.

    Attributes:
        sentence: In words.
        top: Number of the best other combination; ``None`` when nothing can be compared.
        table: The comparison per metric and region; ``None`` likewise.
    """

    sentence: str
    top: int | None = None
    table: pd.DataFrame | None = None


@dataclass
class SweepReport:
    """Keeps the results of a sweep's run up to date.

    Args:
        folders: Of the jobs, in the order of the combinations.
    """

    sweep: Sweep
    folders: Sequence[Path]
    tracker: Tracker
    _scores: dict[int, pd.DataFrame] = field(default_factory=dict)
    _runs: dict[int, RecordedRun] = field(default_factory=dict)
    _ended: int = -1

    def update(self, entries: Sequence[Entry]) -> None:
        """Log the results so far, whenever another combination has ended."""
        counts = count(entries)
        ended = counts["finished"] + counts["failed"] + counts["timed out"]
        if ended == self._ended:
            return
        self._ended = ended
        self.tracker.log_table(self.results(entries), "sweep/results")
        metrics = {f"sweep/{state.replace(' ', '_')}": float(n) for state, n in counts.items()}
        self.tracker.log_metrics(metrics, step=ended)

    def finish(self, entries: Sequence[Entry]) -> Verdict:
        """Results, figures, verdict and description; also of a sweep that is not complete."""
        results = self.results(entries)
        verdict = self.judge(entries)
        self.tracker.log_table(results, "sweep/results")
        regions = self.regions
        figures: list[Any] = []
        if MEAN in results and results[MEAN].notna().any():
            figures += [
                scores_figure(results, regions),
                settings_figure(results, list(self.sweep.grid), MEAN),
            ]
        if verdict.table is not None and verdict.top is not None:
            names = ("the base", self.sweep.combinations[verdict.top].label)
            self.tracker.log_table(verdict.table, "sweep/top_against_base")
            figures += [
                difference_figure(verdict.table, *names),
                table_figure(main_columns(verdict.table), f"{names[1]} minus the base"),
            ]
        if figures:
            self.tracker.log_figure(figures, "sweep/figures")
        self.tracker.set_tags({"bratsml.verdict": verdict.sentence})
        self.tracker.describe(self._description(entries, results, verdict))
        return verdict

    @property
    def regions(self) -> list[str]:
        """Regions scored by any combination, then ``mean``."""
        found = [region for table in self._scores.values() for region in table["region"]]
        return [*dict.fromkeys(found), "mean"]

    def results(self, entries: Sequence[Entry]) -> pd.DataFrame:
        """One row per combination: settings, run, state, attempts, seconds, Dice with intervals."""
        rows = []
        for number, entry in enumerate(entries):
            combination = self.sweep.combinations[number]
            rows.append(
                {
                    "combination": combination.label,
                    **{name: shown(value) for name, value in combination.values.items()},
                    "run_id": JobRun.of(self.folders[number]).run_id,
                    "state": entry.state,
                    "attempts": entry.attempts,
                    "seconds": round(entry.seconds, 1),
                    **self._dice(number, entry),
                    "reason": entry.reason,
                }
            )
        table = pd.DataFrame(rows)
        return table[[name for name in table.columns if name != "reason"] + ["reason"]]

    def judge(self, entries: Sequence[Entry]) -> Verdict:
        """The combination of highest mean Dice, the base left out, against the base."""
        base = self._table(0, entries[0])
        if base is None:
            label = self.sweep.base.label
            return Verdict(f"no verdict: the base ({label}) is {entries[0].state}")
        others, apart = self._comparable(entries)
        if not others:
            reason = apart or "no other combination has finished"
            return Verdict(f"no verdict: {reason}")
        top = max(others, key=lambda number: np.mean(list(case_means(others[number]).values())))
        store = self.sweep.base.prepared.store
        patients = {case: store.meta(case).patient for case in store.case_ids}
        seed = self.sweep.base.experiment.seed
        compared = compare_means(
            case_means(base), case_means(others[top]), patients, seed=seed, num_pairs=len(others)
        )
        label = self.sweep.combinations[top].label
        sentence = verdict_sentence(f"the base ({self.sweep.base.label})", label, compared)
        if compared["verdict"] == "second is better" and len(others) > 1:
            sentence += (
                f"; it was picked from {len(others)} on these same cases, so train both again with "
                "fresh seeds before relying on it"
            )
        if apart:
            sentence += f"; left out: {apart}"
        table = compare(base, others[top], patients, seed=seed, num_pairs=len(others))
        return Verdict(sentence, top, table)

    def _comparable(self, entries: Sequence[Entry]) -> tuple[dict[int, pd.DataFrame], str]:
        """Score tables on the base's cases by number, and why others cannot be compared."""
        found, apart = {}, ""
        for number, entry in enumerate(entries[1:], start=1):
            table = self._table(number, entry)
            if table is None:
                continue
            try:
                require_comparable([self._runs[0], self._runs[number]])
            except TrackingError as error:
                apart = str(error)
                continue
            found[number] = table
        return found, apart

    def _table(self, number: int, entry: Entry) -> pd.DataFrame | None:
        """Case x region scores of a finished combination, read once."""
        if entry.state != "finished":
            return None
        if number not in self._scores:
            root = self.sweep.root
            try:
                run = find_run(JobRun.of(self.folders[number]).run_id, root)
                table = read_table_artifact(run, SCORES_OF[self.sweep.command], root)
            except BratsmlError as error:
                warn(f"the scores of combination {number} cannot be read yet: {error}")
                return None
            self._runs[number], self._scores[number] = run, table
        return self._scores[number]

    def _dice(self, number: int, entry: Entry) -> dict[str, float]:
        table = self._table(number, entry)
        if table is None:
            return {}
        seed = self.sweep.combinations[number].experiment.seed
        values = {
            str(region): rows["dice"].dropna().to_numpy(dtype=float)
            for region, rows in table.groupby("region", sort=False)
        }
        values["mean"] = np.array(list(case_means(table).values()))
        row = {}
        for region, dice in values.items():
            low, high = bootstrap_mean(dice, seed)
            row[f"dice_{region}"] = float(dice.mean()) if len(dice) else float("nan")
            row |= {f"dice_{region}_low95": low, f"dice_{region}_high95": high}
        return row

    def _description(
        self, entries: Sequence[Entry], results: pd.DataFrame, verdict: Verdict
    ) -> str:
        counts = ", ".join(f"{n} {state}" for state, n in count(entries).items() if n)
        lines = [
            f"**Sweep of {self.sweep.name}**: {len(entries)} combinations of "
            f"`{self.sweep.command}`: {counts}.",
            "",
            verdict.sentence[0].upper() + verdict.sentence[1:] + ".",
            "",
            "| | combination | state | Dice (95 % interval over cases) | run |",
            "|---|---|---|---|---|",
        ]
        for number, row in enumerate(results.to_dict("records")):
            lines.append(
                f"| {number} | `{row['combination']}` | {row['state']} | {_interval(row)} | "
                f"{self._link(number, str(row['run_id']))} |"
            )
        lines += [
            "",
            "Intervals of single combinations say how sure each mean is, not whether two differ; "
            "that is the comparison above, patient by patient. The test split was not opened.",
        ]
        return "\n".join(lines)

    def _link(self, number: int, run_id: str) -> str:
        run = self._runs.get(number)
        if run is None:
            return run_id[:8]
        return f"[{run_id[:8]}](#/experiments/{run.experiment_id}/runs/{run_id})"


def case_means(table: pd.DataFrame) -> dict[str, float]:
    """Mean Dice over regions by case; cases without any Dice are left out."""
    means = table.groupby("case")["dice"].mean().dropna()
    return {str(case): float(dice) for case, dice in means.items()}


def _interval(row: Mapping[Any, Any]) -> str:
    dice = row.get(MEAN, np.nan)
    if pd.isna(dice):
        return ""
    return f"{dice:.4f} ({row[f'{MEAN}_low95']:.4f} to {row[f'{MEAN}_high95']:.4f})"
