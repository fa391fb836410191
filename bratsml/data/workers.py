"""Processes that prepare batches ahead of training, and clear words when one of them fails.

PyTorch's DataLoader does the work. Added here: which case a worker was at when it died or hung,
what most likely ended it, and no exception in the middle of a training step.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from bratsml.errors import BratsmlError, ResourceError

Key = tuple[int, int]
"""Epoch and batch number: all that a batch depends on besides the task itself."""
POLL_SECONDS = 0.5
"""How often the main process looks after its workers while it waits."""
_IDLE = -1
_LOST = re.compile(r"^DataLoader worker \(pid")
_WAITING = re.compile(r"^DataLoader timed out")


class Shareable(Protocol):
    """A result that can be handed from a worker to the main process."""

    def share_memory(self) -> None:
        """Move the data to where other processes see it."""


ResultT = TypeVar("ResultT", bound=Shareable)
ResultT_co = TypeVar("ResultT_co", bound=Shareable, covariant=True)


class Task(Protocol[ResultT_co]):
    """What workers do for a key; must be picklable."""

    def __call__(self, key: Key, report: Callable[[int], None]) -> ResultT_co:
        """The result for ``key``; ``report`` is told the number of each item it begins."""

    def describe(self, key: Key, item: int | None) -> str:
        """Case id of one item, or of all items of the key."""


class WorkerLostError(Exception):
    """A worker ended or ran out of memory; the work can be done again with fewer.

    Attributes:
        reason: What happened to the worker, e.g. ``"was killed"``.
        cases: Ids of the case or cases it was at.
    """

    def __init__(self, reason: str, cases: str) -> None:
        super().__init__(reason, cases)  # both, so that it can be pickled
        self.reason, self.cases = reason, cases

    def __str__(self) -> str:
        return f"a data worker {self.reason} while reading {self.cases}"


class WorkerPool(Generic[ResultT]):
    """Workers that live across epochs and give results in the order of their keys.

    Args:
        task: Done in the workers.
        workers: At least one.
        prefetch: Results that each worker prepares ahead.
        timeout_s: Longest wait for one result.
        pin: Copy results to page-locked memory, for GPUs.
    """

    def __init__(
        self, task: Task[ResultT], workers: int, *, prefetch: int, timeout_s: float, pin: bool
    ) -> None:
        self._task, self._timeout_s = task, timeout_s
        self._board = torch.full((workers, 4), _IDLE, dtype=torch.int64).share_memory_()
        self._keys = _Keys()
        self._loader: DataLoader[Any] = DataLoader(
            _Tasks(task, self._board),
            sampler=self._keys,
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=workers,
            prefetch_factor=prefetch,
            persistent_workers=True,
            pin_memory=pin,
            timeout=min(POLL_SECONDS, timeout_s),
            generator=torch.Generator(),  # otherwise it draws from the model's random numbers
        )
        self._iterator: Any = None

    def run(self, keys: Sequence[Key]) -> Iterator[ResultT]:
        """Results for the keys; the workers stay for the next call unless this one breaks off.

        Raises:
            WorkerLostError: A worker ended or had no memory.
            ResourceError: No result within the time limit.
            BratsmlError: Whatever the task raised.
        """
        self._keys.keys = keys
        try:
            self._start(keys)
            for key in keys:
                yield self._wait_for(key)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the workers, whatever they are doing."""
        if self._iterator is not None:
            for process in self._iterator._workers:
                process.kill()
            self._iterator._shutdown_workers()
        self._iterator = self._loader._iterator = None

    def _start(self, keys: Sequence[Key]) -> None:
        """Set the workers to the keys.

        PyTorch's handler of ended children would raise in the middle of whatever the main process
        is doing; it is taken off again, as :meth:`_wait_for` looks after the workers.
        """
        in_main_thread = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGCHLD)
        try:
            self._iterator = iter(self._loader)
        except RuntimeError as error:
            self._iterator = self._loader._iterator
            raise WorkerLostError("did not start", self._task.describe(keys[0], None)) from error
        if in_main_thread and handler is not None:
            signal.signal(signal.SIGCHLD, handler)

    def _wait_for(self, key: Key) -> ResultT:
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                result = next(self._iterator)
                break
            except (ConnectionError, EOFError, FileNotFoundError) as error:
                raise self._lost(key) from error  # it died with the result half handed over
            except RuntimeError as error:
                if _LOST.match(str(error)):
                    raise self._lost(key) from error
                if not _WAITING.match(str(error)):
                    raise
                if time.monotonic() >= deadline:
                    raise self._too_slow(key) from error
        if isinstance(result, _Failure):
            raise result.error
        got: ResultT = result
        return got

    def _lost(self, awaited: Key) -> WorkerLostError:
        for process in self._iterator._workers:
            process.join(timeout=0.1)
            if process.exitcode not in (None, 0):
                return WorkerLostError(_end_of(process.exitcode), self._at(0, process.pid, awaited))
        return WorkerLostError("ended unexpectedly", self._task.describe(awaited, None))

    def _too_slow(self, awaited: Key) -> ResourceError:
        cases = self._at(2, awaited[1], awaited)
        return ResourceError(
            f"{cases} could not be read within {self._timeout_s:g} s; "
            "check the disk that holds the store, or raise loader.timeout_s"
        )

    def _at(self, column: int, value: int, awaited: Key) -> str:
        """What the worker with that entry on the board is at; the awaited cases if none has it."""
        for row in self._board.tolist():
            if row[column] == value and row[3] != _IDLE:
                return self._task.describe((row[1], row[2]), row[3])
        return self._task.describe(awaited, None)


class _Keys(Sampler[Key]):
    """Hands out the keys of the current run."""

    def __init__(self) -> None:
        self.keys: Sequence[Key] = ()

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class _Failure:
    """An error on its way to the main process; PyTorch would keep only its text."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _Tasks(Dataset[Any]):
    """The task as a dataset; each worker notes pid, epoch, batch, item on a shared board."""

    def __init__(self, task: Task[Any], board: torch.Tensor) -> None:
        self.task, self.board = task, board

    def __getitem__(self, key: Key) -> Any:
        info = get_worker_info()
        assert info is not None
        row = self.board[info.id]
        row[:] = torch.tensor([os.getpid(), *key, _IDLE])

        def report(item: int) -> None:
            row[3] = item

        try:
            result = self.task(key, report)
            # here and not in the queue's thread, where an error would be printed and forgotten
            result.share_memory()
        except BratsmlError as error:
            return _Failure(error)
        except (MemoryError, OSError, RuntimeError) as error:
            reason = _shortage(error)
            if not reason:
                raise
            item = int(row[3])
            cases = self.task.describe(key, None if item == _IDLE else item)
            return _Failure(WorkerLostError(reason, cases))
        row[3] = _IDLE
        return result


def _as_it_is(result: Any) -> Any:
    return result


def _shortage(error: Exception) -> str:
    """What the machine lacks, or ``""`` when the error is about something else."""
    text = str(error)
    no_space = isinstance(error, OSError) and error.errno == errno.ENOSPC
    if no_space or "shared memory" in text or "No space left" in text:
        return "found no shared memory (/dev/shm is full)"
    if isinstance(error, MemoryError) or "not enough memory" in text or "allocate memory" in text:
        return "found no memory"
    if "Too many open files" in text:
        return "found too many files open"
    return ""


def _end_of(exit_code: int) -> str:
    """Why a process ended, from its exit code; negative ones are signals."""
    if exit_code == -signal.SIGKILL:
        return "was killed (most likely the machine ran out of memory)"
    if exit_code == -signal.SIGBUS:
        return "lost its memory (shared memory in /dev/shm is full, or the store was changed)"
    if exit_code < 0:
        return f"was ended by {signal.Signals(-exit_code).name}"
    return f"ended with exit code {exit_code}"
