"""What every level may record with, and the tracker that records nothing.

This file imports nothing heavy, so that any level may name the type. MLflow stays behind
``bratsml.tracking.mlflow_tracker``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import pandas as pd

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


@runtime_checkable
class Tracker(Protocol):
    """One run of an experiment: parameters, metric curves, tags and files.

    Recording never stops a training: what the store cannot take now is kept and delivered later.

    Attributes:
        run_id: Identifier of the run in its store; ``""`` when nothing is recorded.
        last_step: Last step whose ``train/loss`` was recorded by an earlier process of the same
            run, ``-1`` for a fresh run; steps up to it need not be recorded again (a value that
            was recorded at a step is not recorded a second time in any case).
    """

    @property
    def run_id(self) -> str:
        """See the class."""

    @property
    def last_step(self) -> int:
        """See the class."""

    def log_params(self, params: Mapping[str, object]) -> None:
        """Record settings under dotted names (``optim.lr``).

        Raises:
            ConfigError: A setting was recorded in this run with another value.
        """

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Record one value per name at ``step``; names may group with slashes (``val/dice/ET``).

        NaN and infinite values are left out; a tag on the run names the metric and the step.
        """

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set labels of the run; a later value replaces the earlier one."""

    def log_file(self, path: Path, folder: str = "") -> None:
        """Keep a copy of one file under ``folder`` of the run's artifacts."""

    def log_text(self, text: str, name: str) -> None:
        """Keep ``text`` as the artifact ``name`` (a relative path with its suffix)."""

    def log_json(self, content: object, name: str) -> None:
        """Keep ``content`` as indented JSON in the artifact ``name``."""

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Keep ``table`` as ``name.csv`` and ``name.parquet``."""

    def log_figure(self, figure: Any, name: str) -> None:
        """Keep a matplotlib figure as PNG or a Plotly figure as HTML that opens offline.

        Several Plotly figures in a list share one page, and one copy of the script they need.
        """

    def log_checkpoint(
        self, path: Path, name: str, step: int, metrics: Mapping[str, float]
    ) -> None:
        """Keep the checkpoint at ``path`` as a logged model with the metrics it reached.

        It takes the place of the run's earlier logged model of that name.
        """

    def describe(self, markdown: str) -> None:
        """Set the run's description, shown rendered on its page."""

    def child(self, name: str, key: str) -> Tracker:
        """Open the nested run known by ``key`` (a fold, a trial), or make it under ``name``."""

    def history(self, metric: str) -> list[tuple[int, float]]:
        """Recorded ``(step, value)`` pairs of one metric, in order of step; may be empty."""

    def finish(self, status: RunStatus) -> None:
        """Close the run; everything still waiting is delivered first where possible."""


class NullTracker:
    """Accepts everything and records nothing; for tests, dry runs and untracked use."""

    run_id = ""
    last_step = -1

    def log_params(self, params: Mapping[str, object]) -> None:
        """Drop ``params``."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Drop ``metrics``."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Drop ``tags``."""

    def log_file(self, path: Path, folder: str = "") -> None:
        """Drop the file; it stays where it is."""

    def log_text(self, text: str, name: str) -> None:
        """Drop ``text``."""

    def log_json(self, content: object, name: str) -> None:
        """Drop ``content``."""

    def log_table(self, table: pd.DataFrame, name: str) -> None:
        """Drop ``table``."""

    def log_figure(self, figure: Any, name: str) -> None:
        """Drop ``figure``."""

    def log_checkpoint(
        self, path: Path, name: str, step: int, metrics: Mapping[str, float]
    ) -> None:
        """Drop the checkpoint; the file stays where it is."""

    def describe(self, markdown: str) -> None:
        """Drop the description."""

    def child(self, name: str, key: str) -> NullTracker:
        """Another tracker that records nothing."""
        return NullTracker()

    def history(self, metric: str) -> list[tuple[int, float]]:
        """Nothing was recorded, so the list is empty."""
        return []

    def finish(self, status: RunStatus) -> None:
        """Nothing to close."""
