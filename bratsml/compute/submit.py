"""Launchers that a queue drives: hand a job over, ask how it is, call it off.

A cluster needs no more than these three calls. What a job has to say beside its exit code it leaves
in a file (:class:`Word`), since not every launcher knows how a job of an earlier process ended.
"""

from __future__ import annotations

import signal
import subprocess
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from bratsml.compute.launcher import Job, ProcessLauncher, run_here
from bratsml.config import Config
from bratsml.files import read_text, write_json

WORD_FILE = "ended.json"


class Word(Config):
    """What a job says at its end.

    Attributes:
        exit_code: 0 for success, else as in :mod:`bratsml.compute.launcher`.
        reason: One sentence; ``""`` after success.
    """

    exit_code: int
    reason: str = ""

    def leave(self, job_folder: Path) -> None:
        """Write it beside the job's record."""
        write_json(job_folder / WORD_FILE, self.tree())

    @classmethod
    def of(cls, job_folder: Path) -> Word | None:
        """What the job said, or ``None`` when it could not say anything."""
        try:
            text = read_text(job_folder / WORD_FILE)
            return cls.model_validate_json(text)
        except (OSError, ValueError):
            return None

    @staticmethod
    def forget(job_folder: Path) -> None:
        """Remove what an earlier attempt said."""
        (job_folder / WORD_FILE).unlink(missing_ok=True)


@dataclass(frozen=True)
class Ending:
    """A job that runs no more.

    Attributes:
        exit_code: Negative for a signal; ``None`` when the launcher cannot tell.
    """

    exit_code: int | None


class Submitter(Protocol):
    """Where the jobs of a queue run.

    Attributes:
        parallel: Jobs at a time.
        is_here: Whether jobs run in this very process, so that a request to stop reaches them
            without us and they cannot be called off.
    """

    @property
    def parallel(self) -> int:
        """See the class."""

    @property
    def is_here(self) -> bool:
        """See the class."""

    def submit(self, job: Job) -> str:
        """Start a job; returns a handle that a later process can ask with, too.

        A job of the same name that still runs, of which a killed queue did not note the handle,
        must not work beside this one.
        """

    def poll(self, handle: str) -> Ending | None:
        """How a job ended, or ``None`` while it waits or runs; unknown handles have ended."""

    def cancel(self, handle: str, *, force: bool) -> None:
        """Ask a job to save and end (SIGTERM), or with ``force`` kill it."""


@dataclass
class InlineSubmitter:
    """Runs each job to its end in this process: for tests and debuggers."""

    parallel: int = 1
    is_here: bool = True
    _exit_codes: dict[str, int] = field(default_factory=dict)

    def submit(self, job: Job) -> str:
        """Run the job; a bug in it is a failure, its traceback is in the log."""
        try:
            code = run_here(job)
        except Exception:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with job.log.open("a", encoding="utf-8") as log:
                log.write(traceback.format_exc())
            code = 1
        handle = f"inline {len(self._exit_codes)}"
        self._exit_codes[handle] = code
        return handle

    def poll(self, handle: str) -> Ending | None:
        """How it ended."""
        return Ending(self._exit_codes.get(handle))

    def cancel(self, handle: str, *, force: bool) -> None:
        """Nothing can be called off: jobs have ended when ``submit`` returns."""


@dataclass
class ProcessSubmitter:
    """Each job in a process of its own on this machine.

    Jobs end with the process that started them (they call
    :func:`~bratsml.compute.launcher.stop_when_parent_ends`), which takes a while: they save first.

    Attributes:
        launcher: Starts the processes and spreads them over the GPUs.
    """

    launcher: ProcessLauncher
    is_here: bool = False
    _started: dict[str, tuple[int, subprocess.Popen[bytes]]] = field(default_factory=dict)

    @property
    def parallel(self) -> int:
        """Jobs at a time."""
        return self.launcher.parallel

    def submit(self, job: Job) -> str:
        """Start a process in the first free slot."""
        taken = {slot for slot, process in self._started.values() if process.poll() is None}
        slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)
        process = self.launcher.start(job, slot)
        handle = f"{process.pid} {_start_time(process.pid)}"
        self._started[handle] = slot, process
        return handle

    def poll(self, handle: str) -> Ending | None:
        """How a process ended; of one started by an earlier process only that it did."""
        if handle in self._started:
            code = self._started[handle][1].poll()
            return None if code is None else Ending(code)
        return None if _process_of(handle) else Ending(None)

    def cancel(self, handle: str, *, force: bool) -> None:
        """Send SIGTERM or SIGKILL."""
        process = _process_of(handle)
        if process is not None:
            try:
                process.send_signal(signal.SIGKILL if force else signal.SIGTERM)
            except psutil.NoSuchProcess:
                return  # it has just ended


def _start_time(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.NoSuchProcess:
        return "0"


def _process_of(handle: str) -> psutil.Process | None:
    """The living process of a handle; ids are given again, so its start time must agree."""
    pid, _, started = handle.partition(" ")
    try:
        process = psutil.Process(int(pid))
        alive = process.status() != psutil.STATUS_ZOMBIE
        return process if alive and f"{process.create_time():.2f}" == started else None
    except (ValueError, psutil.Error):
        return None
