"""The progress bar of work on many cases: what, how far, how fast, when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _RateColumn(TextColumn):
    """Cases per minute, over the whole run: single cases vary too much to extrapolate from."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        if not task.completed or not task.elapsed:
            return Text("")
        return Text(f"{60 * task.completed / task.elapsed:.0f} cases/min")


class _EndColumn(TextColumn):
    """Clock time at which the work will be done."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        if task.time_remaining is None or task.finished:
            return Text("")
        end = time.localtime(time.time() + task.time_remaining)
        return Text(f"ends {time.strftime('%H:%M', end)}")


@contextmanager
def case_progress(what: str, total: int, *, shown: bool) -> Iterator[Callable[[bool], None]]:
    """A bar on standard error; call what it yields once per case, with whether it was rejected."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cases"),
        _RateColumn(),
        TimeRemainingColumn(),
        _EndColumn(),
        TextColumn("[red]{task.fields[rejected]}"),
        console=Console(stderr=True),
        disable=not shown,
    )
    num_rejected = 0
    with bar:
        task = bar.add_task(what, total=total, rejected="")

        def advance(rejected: bool) -> None:
            nonlocal num_rejected
            num_rejected += rejected
            bar.update(task, advance=1, rejected=f"{num_rejected} rejected" if num_rejected else "")

        yield advance
