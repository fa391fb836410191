"""What a study's own run shows while it goes on and at its end."""

from __future__ import annotations

import time
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from bratsml.errors import ResourceError
from bratsml.tracking.tracker import Tracker
from bratsml.tuning.figures import study_figures
from bratsml.tuning.study import SharedStudy
from bratsml.tuning.table import trials_table
from bratsml.workflows.console import say
from bratsml.workflows.study_record import StudyRecord

DRAW_SECONDS = 60.0
LOOK_SECONDS = 2.0
SHOWN_SETTINGS = 6


@dataclass
class StudyReport:
    """Prints a line per trial that ends and keeps the curves, figures and table up to date."""

    record: StudyRecord
    study: SharedStudy
    tracker: Tracker
    told: set[int] = field(default_factory=set)
    looked_at: float = 0.0
    drawn_at: float = 0.0
    drawn: int = -1

    def __post_init__(self) -> None:
        # an earlier session has told of these
        self.told = {trial.number for trial in self.study.trials() if trial.state.is_finished()}

    def update(self) -> None:
        """Look at the study, if it was not looked at just now."""
        now = time.monotonic()
        if now - self.looked_at < LOOK_SECONDS:
            return
        self.looked_at = now
        try:
            table = self.table()
        except ResourceError:
            return  # the storage is busy or away; looked at again soon
        ended = table[~table["outcome"].isin(["queued", "running"])]
        for row in ended[~ended["trial"].isin(self.told)].to_dict("records"):
            self.told.add(int(row["trial"]))
            self._tell(row, table)
            self._log_progress(ended)
        if now - self.drawn_at > DRAW_SECONDS and len(ended) != self.drawn:
            self.draw(ended)

    def finish(self) -> pd.DataFrame:
        """Bring everything up to date; the table of all trials."""
        self.looked_at = 0.0
        self.update()
        table = self.table()
        self.draw(table)
        return table

    def table(self) -> pd.DataFrame:
        """All trials as they are now."""
        return trials_table(self.study.trials(), self.record.objectives)

    def draw(self, ended: pd.DataFrame) -> None:
        """Log figures and table."""
        self.drawn_at, self.drawn = time.monotonic(), len(ended)
        kind = self.record.kind
        self.tracker.log_table(self.table().astype({"reason": str}), f"study/{kind}s")
        figures = study_figures(self.study, self.record.objectives, self.record.vram_gb)
        if figures and kind == "trial":
            self.tracker.log_figure(figures, "study/figures")

    def _tell(self, row: dict[Hashable, Any], table: pd.DataFrame) -> None:
        score = row[self.record.objectives[0]]
        shown = f"Dice {score:.4f}" if row["outcome"] == "complete" else str(row["outcome"])
        settings = ", ".join(
            f"{name.split('.')[-1]}={_short(row[name])}"
            for name in list(self.record.space.dimensions)[:SHOWN_SETTINGS]
            if name in row
        )
        why = f" ({row['reason']})" if row["reason"] else ""
        of = max(self.record.trials, len(table))
        say(f"{self.record.kind} {row['trial']} of {of}: {shown}; {settings}{why}")

    def _log_progress(self, ended: pd.DataFrame) -> None:
        """Best so far and trials by outcome, against the number of trials ended."""
        if self.record.kind != "trial":
            return
        complete = ended[ended["outcome"] == "complete"]
        metrics = {
            f"study/{outcome}": float((ended["outcome"] == outcome).sum())
            for outcome in ("complete", "pruned", "infeasible", "diverged", "failed")
        }
        if len(complete):
            metrics["study/best_dice"] = float(complete[self.record.objectives[0]].max())
        self.tracker.log_metrics(metrics, step=len(ended))


def _short(value: object) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.2g}"
    return f"{value:.0f}" if isinstance(value, float) else str(value)
