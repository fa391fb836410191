"""How far the folds of a running cross-validation have come, in the terminal and on the parent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bratsml.compute.launcher import Outcome
from bratsml.tracking.tracker import Tracker
from bratsml.workflows.console import console, duration, say
from bratsml.workflows.fold import PROGRESS_FILE, RESULT_FILE
from bratsml.workflows.records import epochs_in, find_record

REPORT_SECONDS = 10.0
"""How often the parent run hears how far the folds are."""


class FoldBoard:
    """One bar per fold; without a terminal, a line whenever a fold has done another fifth."""

    def __init__(self, folders: Sequence[Path], epochs: int, tracker: Tracker) -> None:
        self.folders, self.epochs, self.tracker = folders, epochs, tracker
        self.started = time.monotonic()
        self.start_epochs = sum(self._epoch(folder) for folder in folders)
        self.fifths = [self._epoch(folder) * 5 // epochs for folder in folders]
        self.reported_at = self.started
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} epochs"),
            TextColumn("{task.fields[dice]}"),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.tasks: list[TaskID] = []

    def __enter__(self) -> FoldBoard:
        self.progress.start()
        self.tasks = [
            self.progress.add_task(f"fold {number}", total=self.epochs, dice="", left="")
            for number, _ in enumerate(self.folders)
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def update(self, outcomes: list[Outcome]) -> None:
        """Show where the folds are; called a few times a second."""
        done = sum(self._epoch(folder) for folder in self.folders)
        left = self._seconds_left(done)
        for number, folder in enumerate(self.folders):
            state = self._state(folder)
            dice = state.get("dice")
            shown = "" if dice is None else f"Dice {dice:.3f}"
            self.progress.update(
                self.tasks[number],
                completed=self._epoch(folder),
                dice=shown,
                left=f"all done in {duration(left)}" if number == 0 and left else "",
            )
            self._say_fifth(number, folder, shown, left)
        now = time.monotonic()
        if now - self.reported_at >= REPORT_SECONDS and left is not None:
            self.reported_at = now
            self.tracker.log_metrics({"cv/hours_left": left / 3600}, step=done)

    def _say_fifth(self, number: int, folder: Path, dice: str, left: float | None) -> None:
        fifth = self._epoch(folder) * 5 // self.epochs
        if fifth > self.fifths[number] and not console.is_terminal:
            self.fifths[number] = fifth
            ahead = f"; all done in {duration(left)}" if left else ""
            shown = f", {dice}" if dice else ""
            say(f"fold {number}: {self._epoch(folder)}/{self.epochs} epochs{shown}{ahead}")

    def _seconds_left(self, done: int) -> float | None:
        fresh = done - self.start_epochs
        if fresh <= 0:
            return None
        pace = (time.monotonic() - self.started) / fresh
        return pace * (self.epochs * len(self.folders) - done)

    def _epoch(self, folder: Path) -> int:
        if (folder / RESULT_FILE).is_file():
            return self.epochs
        return epochs_in(self._state(folder))

    @staticmethod
    def _state(folder: Path) -> dict[str, float]:
        return find_record(folder / PROGRESS_FILE)
