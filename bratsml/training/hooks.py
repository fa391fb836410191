"""Named moments of a training that others may listen to, and the progress display."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Hook:
    """Hears of a training's moments; does nothing by itself. ``close`` is always called."""

    def on_fit_start(self, epoch: int, epochs: int, steps: int) -> None:
        """Training starts or resumes at ``epoch`` of ``epochs`` with ``steps`` batches each."""

    def on_step(self, step: int, loss: float) -> None:
        """An optimizer step is done; ``step`` batches of the epoch are behind it."""

    def on_epoch_end(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """An epoch is done, validated where due; ``metrics`` is what gets logged."""

    def on_checkpoint(self, epoch: int, is_best: bool) -> None:
        """The state has been saved."""

    def on_error(self, error: BaseException) -> None:
        """Training ends because of an error."""

    def close(self) -> None:
        """Training has ended, whatever the reason."""


class Hooks:
    """Several hooks called in order, as a context that reports errors and always closes."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.hooks = tuple(hooks)

    def __enter__(self) -> Hooks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with ExitStack() as stack:
            for hook in reversed(self.hooks):
                stack.callback(hook.close)
                if error is not None:
                    stack.callback(hook.on_error, error)

    def on_fit_start(self, epoch: int, epochs: int, steps: int) -> None:
        """Tell every hook."""
        for hook in self.hooks:
            hook.on_fit_start(epoch, epochs, steps)

    def on_step(self, step: int, loss: float) -> None:
        """Tell every hook."""
        for hook in self.hooks:
            hook.on_step(step, loss)

    def on_epoch_end(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """Tell every hook."""
        for hook in self.hooks:
            hook.on_epoch_end(epoch, epochs, metrics)

    def on_checkpoint(self, epoch: int, is_best: bool) -> None:
        """Tell every hook."""
        for hook in self.hooks:
            hook.on_checkpoint(epoch, is_best)


class ProgressHook(Hook):
    """A bar over all epochs; without a terminal, one line per epoch."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.title = title
        self.console = console or Console(highlight=False, markup=False, emoji=False)
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.steps = 1
        self.epoch = 0
        self.dice = ""

    def on_fit_start(self, epoch: int, epochs: int, steps: int) -> None:
        """See :class:`Hook`."""
        self.steps, self.epoch = steps, epoch
        if not self.console.is_terminal:
            return
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.bar.start()
        self.task = self.bar.add_task(
            self.title, total=epochs * steps, completed=epoch * steps, state=""
        )

    def on_step(self, step: int, loss: float) -> None:
        """See :class:`Hook`."""
        if self.bar is not None and self.task is not None:
            state = f"epoch {self.epoch + 1}, step {step}/{self.steps}, loss {loss:.3f}{self.dice}"
            self.bar.update(self.task, completed=self.epoch * self.steps + step, state=state)

    def on_epoch_end(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """See :class:`Hook`."""
        self.epoch = epoch + 1
        dice = metrics.get("val/dice/mean")
        if dice is not None:
            self.dice = f", Dice {dice:.3f}"
        if self.bar is None:
            loss = metrics.get("train/loss")
            shown = "" if loss is None else f" loss {loss:.4f}"
            validated = "" if dice is None else self.dice
            seconds = metrics.get("epoch_seconds", 0.0)
            self.console.print(
                f"{self.title}: epoch {epoch + 1}/{epochs}{shown}{validated}, {seconds:.1f} s"
            )

    def close(self) -> None:
        """See :class:`Hook`."""
        if self.bar is not None:
            self.bar.stop()
