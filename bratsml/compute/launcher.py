"""Running a list of jobs: one after another in this process, or in processes of their own.

A job is a Python module and one JSON file that says everything; the same record runs on a laptop or
on a cluster. A job that fails or is killed leaves the others standing.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from pydantic import Field

from bratsml.config import Config
from bratsml.errors import BratsmlError, CheckpointError, ConfigError, DataError
from bratsml.files import read_end

POLL_SECONDS = 0.2
KILL_AFTER_SECONDS = 120.0
"""How long a job may take to save and end after it was asked to stop."""
STOPPED_EXIT_CODE = 143
"""What a job returns that was asked to stop and saved: 128 + SIGTERM."""
MISTAKE_EXIT_CODE = 78
"""What a job returns that its user must mend: the same job would fail again (EX_CONFIG)."""


def exit_code_of(error: BratsmlError) -> int:
    """What a job returns that ends with that error."""
    is_mistake = isinstance(error, ConfigError | DataError | CheckpointError)
    return MISTAKE_EXIT_CODE if is_mistake else 1


class LauncherConfig(Config):
    """Where the folds of a cross-validation run.

    Attributes:
        kind: ``processes`` starts one process per fold; ``inline`` runs them in this one.
        parallel: Folds at a time; 0 chooses: one per GPU, else one per core (at most two, since
            memory is what runs out on a CPU).
    """

    kind: Literal["processes", "inline"] = "processes"
    parallel: int = Field(default=0, ge=0)

    def build(self, num_gpus: int, beside: int = 1) -> Launcher:
        """The launcher for a machine with that many GPUs.

        Args:
            beside: Cross-validations that share the cores of the machine, this one included.
        """
        if self.kind == "inline":
            return InlineLauncher()
        cores = max(1, (os.cpu_count() or 1) // beside)
        parallel = self.parallel or num_gpus or min(2, cores)
        return ProcessLauncher(parallel, threads=max(1, cores // parallel), num_gpus=num_gpus)


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        name: Shown to the user, e.g. ``fold 2``.
        module: Python module run as ``python -m module record``.
        record: JSON file with all that the module needs.
        log: File that takes the job's output.
    """

    name: str
    module: str
    record: Path
    log: Path


@dataclass(frozen=True)
class Outcome:
    """How a job ended: its exit code, 0 for success."""

    job: Job
    exit_code: int

    @property
    def state(self) -> Literal["finished", "stopped", "failed"]:
        """In words; a job killed by the system counts as failed."""
        if self.exit_code == 0:
            return "finished"
        return "stopped" if self.exit_code == STOPPED_EXIT_CODE else "failed"

    @property
    def last_line(self) -> str:
        """Last line of the job's log that says something, or why there is none."""
        try:
            lines = read_end(self.job.log).split("\n")
        except OSError:
            lines = []
        said = [line.strip() for line in lines if line.strip()]
        if self.exit_code < 0:
            name = signal.Signals(-self.exit_code).name
            return f"killed by {name} (often: out of memory)" if name == "SIGKILL" else name
        return said[-1] if said else f"exit code {self.exit_code}"


class Launcher:
    """Interface: run jobs, tell ``watch`` now and then which are done.

    Attributes:
        parallel: Jobs at a time.
    """

    parallel: int = 1

    def run(self, jobs: Sequence[Job], watch: Callable[[list[Outcome]], None]) -> list[Outcome]:
        """Run every job; outcomes come in the order of the jobs.

        After a request to stop (SIGTERM, SIGINT, SIGUSR1) running jobs are asked to stop too, no
        new one starts, and jobs never started are missing from the result.
        """
        raise NotImplementedError


class InlineLauncher(Launcher):
    """One job after another in this process: for tests and debuggers."""

    def run(self, jobs: Sequence[Job], watch: Callable[[list[Outcome]], None]) -> list[Outcome]:
        """See :meth:`Launcher.run`."""
        outcomes: list[Outcome] = []
        for job in jobs:
            outcomes.append(Outcome(job, run_here(job)))
            watch(outcomes)
            if outcomes[-1].state == "stopped":
                break
        return outcomes


@dataclass
class ProcessLauncher(Launcher):
    """Up to ``parallel`` jobs at a time, each in its own process, spread over the GPUs.

    Attributes:
        threads: Of each job; 0 leaves it to the job.
        num_gpus: Jobs get one of so many GPUs each; 0 leaves them all that there are.
    """

    parallel: int = 1
    threads: int = 1
    num_gpus: int = 0

    def run(self, jobs: Sequence[Job], watch: Callable[[list[Outcome]], None]) -> list[Outcome]:
        """See :meth:`Launcher.run`."""
        waiting = list(jobs)
        running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
        done: dict[str, Outcome] = {}
        with stop_requests() as asked:
            forwarded_at = 0.0
            while running or (waiting and not asked):
                free = [slot for slot in range(self.parallel) if slot not in running]
                while waiting and free and not asked:
                    slot, job = free.pop(0), waiting.pop(0)
                    running[slot] = (job, self.start(job, slot))
                if asked and not forwarded_at:
                    forwarded_at = time.monotonic()
                    _signal_all(running.values(), signal.SIGTERM)
                if forwarded_at and time.monotonic() - forwarded_at > KILL_AFTER_SECONDS:
                    _signal_all(running.values(), signal.SIGKILL)
                for slot, (job, process) in list(running.items()):
                    code = process.poll()
                    if code is not None:
                        del running[slot]
                        # a job stopped before it could listen dies of the signal itself
                        stopped = code == -signal.SIGTERM and bool(asked)
                        done[job.name] = Outcome(job, STOPPED_EXIT_CODE if stopped else code)
                watch([done[job.name] for job in jobs if job.name in done])
                time.sleep(POLL_SECONDS)
        return [done[job.name] for job in jobs if job.name in done]

    def start(self, job: Job, slot: int) -> subprocess.Popen[bytes]:
        """Start one job in a process group of its own; its output is added to its log."""
        environment = dict(os.environ)
        if self.threads:
            environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        if self.num_gpus and "CUDA_VISIBLE_DEVICES" not in environment:
            environment["CUDA_VISIBLE_DEVICES"] = str(slot % self.num_gpus)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", job.module, str(job.record)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                # its own group: Ctrl-C reaches it once, through us
                start_new_session=True,
            )


def run_here(job: Job) -> int:
    """Run one job in this process; returns its exit code."""
    arguments = sys.argv
    sys.argv = [job.module, str(job.record)]
    try:
        runpy.run_module(job.module, run_name="__main__", alter_sys=False)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    finally:
        sys.argv = arguments
    return 0


def _signal_all(running: Sequence[Any] | Any, number: signal.Signals) -> None:
    for _, process in running:
        if process.poll() is None:
            process.send_signal(number)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect the numbers of the signals that ask this process to stop."""
    asked: list[int] = []

    def remember(number: int, _: FrameType | None) -> None:
        asked.append(number)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, remember) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_when_parent_ends() -> None:
    """Ask this process to stop (SIGTERM to itself) once the process that started it is gone.

    So a launcher killed with SIGKILL leaves no job behind that would write beside its successor.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
