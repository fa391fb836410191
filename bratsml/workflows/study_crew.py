"""The workers of a study on this machine: started, watched, replaced when they die."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bratsml.compute.launcher import (
    KILL_AFTER_SECONDS,
    STOPPED_EXIT_CODE,
    Job,
    Outcome,
    ProcessLauncher,
    stop_requests,
)
from bratsml.errors import ResourceError
from bratsml.workflows.console import warn

POLL_SECONDS = 0.3
SHORT_LIFE_SECONDS = 20.0
MOST_SHORT_LIVES = 3
"""A worker that ends that often soon after its start is not started again."""


@dataclass
class Crew:
    """Up to ``len(jobs)`` workers at a time.

    Attributes:
        watch: Called a few times a second while they work.
    """

    jobs: list[Job]
    launcher: ProcessLauncher
    watch: Callable[[], None]
    _running: dict[int, tuple[subprocess.Popen[bytes], float]] = field(default_factory=dict)
    _short_lives: int = 0

    def run(self) -> bool:
        """Until every worker says that nothing is left; False when asked to stop before.

        Raises:
            ResourceError: Workers cannot stay alive; names their log and its last line.
        """
        with stop_requests() as asked:
            asked_at = 0.0
            for slot in range(len(self.jobs)):
                self._start(slot)
            try:
                while self._running:
                    if asked and not asked_at:
                        asked_at = time.monotonic()
                        self._signal(signal.SIGTERM)
                    if asked_at and time.monotonic() - asked_at > KILL_AFTER_SECONDS:
                        self._signal(signal.SIGKILL)
                    self._collect(stopping=bool(asked))
                    self.watch()
                    time.sleep(POLL_SECONDS)
            except BaseException:
                self._signal(signal.SIGTERM)
                raise
        return not asked

    def _start(self, slot: int) -> None:
        process = self.launcher.start(self.jobs[slot], slot)
        self._running[slot] = (process, time.monotonic())

    def _collect(self, stopping: bool) -> None:
        for slot, (process, started) in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[slot]
            if code in (0, STOPPED_EXIT_CODE) or stopping:
                continue
            outcome = Outcome(self.jobs[slot], code)
            if time.monotonic() - started < SHORT_LIFE_SECONDS:
                self._short_lives += 1
            if self._short_lives >= MOST_SHORT_LIVES:
                raise ResourceError(
                    f"{outcome.job.name} cannot stay alive: {outcome.last_line} (log: "
                    f"{outcome.job.log.name} in the study's folder); mend it, the same command "
                    "goes on"
                )
            warn(f"{outcome.job.name} ended ({outcome.last_line}); another takes its place")
            self._start(slot)

    def _signal(self, number: signal.Signals) -> None:
        for process, _ in self._running.values():
            if process.poll() is None:
                process.send_signal(number)
