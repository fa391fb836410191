"""How a sweep is doing: a live table in a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.live import Live
from rich.table import Table

from bratsml.compute.queue import Entry, State
from bratsml.workflows.console import console, duration, say
from bratsml.workflows.fold import PROGRESS_FILE, RESULT_FILE
from bratsml.workflows.records import epochs_in, find_record
from bratsml.workflows.sweep_job import JobRun
from bratsml.workflows.sweep_plan import Sweep

LOOK_SECONDS = 1.0
COLOURS: dict[State, str] = {
    "waiting": "bright_black",
    "running": "cyan",
    "finished": "green",
    "failed": "red",
    "timed out": "red",
    "stopped": "yellow",
}


@dataclass(frozen=True)
class Progress:
    """How far a combination has come.

    Attributes:
        epochs: Done, over its folds.
        total: Of all its folds.
        dice: Mean of the folds' last validation; ``None`` before any.
    """

    epochs: int
    total: int
    dice: float | None

    @classmethod
    def of(cls, folder: Path | None, epochs_each: int, num_folds: int) -> Progress:
        """From what the folds have written in the folder that a run works in."""
        done, dice = 0, []
        for path in sorted(folder.rglob(PROGRESS_FILE)) if folder else []:
            state = find_record(path)
            is_over = path.with_name(RESULT_FILE).is_file()
            done += epochs_each if is_over else epochs_in(state)
            if isinstance(state.get("dice"), float | int):
                dice.append(float(state["dice"]))
        mean = sum(dice) / len(dice) if dice else None
        return cls(done, epochs_each * num_folds, mean)


class SweepBoard:
    """Shows the entries of the queue; the job folders tell how far each is.

    Args:
        entries: As the queue was found; what had finished then is no news.
    """

    def __init__(self, sweep: Sweep, folders: Sequence[Path], entries: Sequence[Entry]) -> None:
        self.sweep, self.folders = sweep, folders
        self.told = {entry.key: (entry.state, entry.attempts) for entry in entries}
        self.looked_at = 0.0
        self.live: Live | None = None
        # in this process a combination draws bars of its own, and two live displays cannot be
        if console.is_terminal and sweep.launcher == "processes":
            self.live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> SweepBoard:
        if self.live is not None:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live is not None:
            self.live.stop()

    def update(self, entries: Sequence[Entry]) -> None:
        """Show where the combinations are; called a few times a second."""
        if self.live is None:
            self._tell(entries)
        elif time.monotonic() - self.looked_at >= LOOK_SECONDS:
            self.looked_at = time.monotonic()
            self.live.update(self.table(entries), refresh=True)

    def finish(self, entries: Sequence[Entry]) -> None:
        """Show the last state, at once."""
        self.looked_at = 0.0
        self.update(entries)

    def table(self, entries: Sequence[Entry]) -> Table:
        """One row per combination."""
        counts = ", ".join(f"{n} {state}" for state, n in count(entries).items() if n)
        shown = Table(title=f"sweep {self.sweep.name}: {counts}")
        columns = ("", "combination", "state", "attempt", "elapsed", "epoch", "Dice", "note")
        for name in columns:
            is_text = name in ("combination", "state", "note")
            shown.add_column(name, justify="left" if is_text else "right")
        for number, entry in enumerate(entries):
            progress = self.progress(number)
            began = entry.attempts > 0
            shown.add_row(
                str(number),
                self.sweep.combinations[number].label,
                f"[{COLOURS[entry.state]}]{entry.state}[/]",
                str(entry.attempts) if began else "",
                duration(entry.elapsed(time.time())) if began else "",
                f"{progress.epochs}/{progress.total}" if began else "",
                "" if progress.dice is None else f"{progress.dice:.3f}",
                self._note(entry),
            )
        return shown

    def progress(self, number: int) -> Progress:
        """How far one combination is."""
        works_in = JobRun.of(self.folders[number]).folder
        combination = self.sweep.combinations[number]
        num_folds = len(combination.split.folds) if self.sweep.command == "cv" else 1
        epochs = combination.experiment.train.epochs
        return Progress.of(Path(works_in) if works_in else None, epochs, num_folds)

    def _note(self, entry: Entry) -> str:
        pause = entry.not_before - time.time()
        if entry.state == "waiting" and pause > 0:
            return f"again in {duration(pause)}: {entry.reason}"
        return entry.reason

    def _tell(self, entries: Sequence[Entry]) -> None:
        for number, entry in enumerate(entries):
            news = (entry.state, entry.attempts)
            if self.told[entry.key] == news:
                continue
            self.told[entry.key] = news
            which = f"combination {number} ({self.sweep.combinations[number].label})"
            if entry.state == "running":
                say(f"{which}: attempt {entry.attempts} began")
                continue
            after = f" after {duration(entry.seconds)}" if entry.attempts else ""
            note = self._note(entry)
            say(f"{which}: {entry.state}{after}{f': {note}' if note else ''}")


def count(entries: Sequence[Entry]) -> dict[State, int]:
    """How many are in each state, in a fixed order of states."""
    counts: dict[State, int] = dict.fromkeys(COLOURS, 0)
    for entry in entries:
        counts[entry.state] += 1
    return counts
