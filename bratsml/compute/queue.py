"""A queue of jobs that outlives its process: what waits, runs, is done, and how it ended.

The state is one JSON file, replaced atomically at every change, so a kill at any point leaves the
queue as it was before or after the change, never in between. A job is noted as running before it is
submitted: whatever happens then, the next start asks the launcher for it, and what nobody works on
any more waits again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import Field

from bratsml.compute.launcher import (
    KILL_AFTER_SECONDS,
    MISTAKE_EXIT_CODE,
    POLL_SECONDS,
    STOPPED_EXIT_CODE,
    Job,
    Outcome,
    stop_requests,
)
from bratsml.compute.submit import WORD_FILE, Ending, Submitter, Word
from bratsml.config import Config
from bratsml.errors import ResourceError
from bratsml.files import read_json, write_json

State = Literal["waiting", "running", "finished", "failed", "timed out", "stopped"]
STATES: tuple[State, ...] = ("waiting", "running", "finished", "failed", "timed out", "stopped")


class QueuePolicy(Config):
    """When a queue gives up.

    Attributes:
        retries: Further attempts after a failure; none after a mistake of the user.
        pause_seconds: Before the first of them; doubled before each further one.
        timeout_hours: Longest attempt; ``None`` for no limit. What timed out is not tried again by
            this process.
        kill_after_seconds: Between asking a job to end and killing it.
    """

    retries: int = Field(default=2, ge=0)
    pause_seconds: float = Field(default=30.0, ge=0)
    timeout_hours: float | None = Field(default=None, gt=0)
    kill_after_seconds: float = Field(default=KILL_AFTER_SECONDS, ge=0)


class Entry(Config):
    """One job of the queue.

    Attributes:
        key: Its name.
        attempts: Begun so far, over all starts of the queue.
        failures: Of this start of the queue.
        handle: Of the running attempt; ``""`` before the launcher has given it.
        began: When the latest attempt began, in seconds since 1970.
        seconds: Spent by attempts that have ended.
        not_before: When the next attempt may begin, in seconds since 1970.
        reason: Why the latest attempt did not finish.
    """

    key: str
    state: State = "waiting"
    attempts: int = 0
    failures: int = 0
    handle: str = ""
    began: float = 0.0
    seconds: float = 0.0
    not_before: float = 0.0
    reason: str = ""

    def elapsed(self, now: float) -> float:
        """Seconds spent on the job, by all attempts."""
        return self.seconds + (max(0.0, now - self.began) if self.state == "running" else 0.0)


class JobQueue:
    """Jobs, in their order, and what became of them.

    One process at a time may hold a queue; :meth:`close` lets go of it.

    Args:
        path: File of the state; a lock file lies beside it.
        jobs: By key. Those that an earlier start did not finish wait again; finished ones do not.
        submitter: Where they run.
        clock: Seconds since 1970.

    Raises:
        ResourceError: Another process works on the queue, or its file is damaged or of other jobs.
    """

    def __init__(
        self,
        path: Path,
        jobs: Mapping[str, Job],
        submitter: Submitter,
        policy: QueuePolicy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path, self.jobs, self.submitter = path, dict(jobs), submitter
        self.policy, self.clock = policy, clock
        self.is_stopping = False
        self._asked: dict[str, tuple[float, State]] = {}
        self._killed: set[str] = set()
        self._ours: set[str] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(path.with_suffix(".lock"), timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise ResourceError(
                f"another process works on the queue in {path.parent.name}; wait for it or stop it"
            ) from error
        try:
            self._entries = {entry.key: entry for entry in self._load()}
            for entry in self.entries:
                self._begin_again(entry)
            self._save()
        except BaseException:
            self.close()
            raise

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Every job once, in order."""
        return tuple(self._entries.values())

    @property
    def is_done(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._in("waiting", "running")

    def run(self, watch: Callable[[Sequence[Entry]], None]) -> bool:
        """Work until all is done; False when asked to stop before (SIGTERM, SIGINT, SIGUSR1).

        Running jobs are asked to stop and waited for; what waits then, waits for the next start.

        Args:
            watch: Shown the entries a few times a second.
        """
        with stop_requests() as asked:
            try:
                while not self.is_done:
                    if asked:
                        self.stop()
                    self.step()
                    watch(self.entries)
                    if self.is_stopping and not self._in("running"):
                        break
                    if not self.submitter.is_here:
                        time.sleep(POLL_SECONDS)
            except BaseException:
                self.stop()
                raise
        return not self.is_stopping

    def step(self) -> None:
        """Take note of what has ended, call off what takes too long, start what may start."""
        for entry in self._in("running"):
            is_unknown = not entry.handle and entry.key not in self._ours
            has_ended = Word.of(self.jobs[entry.key].record.parent) is not None
            if is_unknown and not has_ended and not self.submitter.is_here:
                self._submit(entry)  # killed while it was handed over: it may run or not
                continue
            ending = self.submitter.poll(entry.handle) if entry.handle else Ending(None)
            if ending is not None:
                self._conclude(entry, ending)
        self._enforce()
        for entry in self._in("waiting"):
            free = len(self._in("running")) < self.submitter.parallel
            if free and not self.is_stopping and entry.not_before <= self.clock():
                self._start(entry)
                if self.submitter.is_here:
                    return  # it has ended: conclude it before the next begins

    def stop(self) -> None:
        """Start nothing more and ask what runs to save and end."""
        self.is_stopping = True
        self._enforce()

    def close(self) -> None:
        """Let another process work on the queue."""
        self._lock.release()

    def _in(self, *states: State) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.state in states]

    def _load(self) -> list[Entry]:
        if not self.path.is_file():
            return [Entry(key=key) for key in self.jobs]
        try:
            content = read_json(self.path)
            entries = [Entry.model_validate(tree) for tree in content["entries"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ResourceError(
                f"{self.path.name} in {self.path.parent.name} cannot be read; delete it to queue "
                "every job again (finished runs are found again)"
            ) from error
        if [entry.key for entry in entries] != list(self.jobs):
            raise ResourceError(
                f"{self.path.name} in {self.path.parent.name} is of other jobs; delete it"
            )
        return entries

    def _save(self) -> None:
        write_json(self.path, {"entries": [entry.tree() for entry in self._entries.values()]})

    def _change(self, entry: Entry, **changes: object) -> None:
        self._entries[entry.key] = Entry.model_validate({**entry.tree(), **changes})
        self._save()

    def _begin_again(self, entry: Entry) -> None:
        """An entry as this start of the queue finds it; what runs is looked at by ``step``."""
        fresh: dict[str, object] = {"failures": 0, "not_before": 0.0}
        if entry.state in ("failed", "timed out", "stopped"):
            fresh["state"] = "waiting"
        self._entries[entry.key] = Entry.model_validate({**entry.tree(), **fresh})

    def _start(self, entry: Entry) -> None:
        changes = {"attempts": entry.attempts + 1, "handle": "", "reason": ""}
        self._change(entry, state="running", began=self.clock(), **changes)
        Word.forget(self.jobs[entry.key].record.parent)
        self._submit(entry)

    def _submit(self, entry: Entry) -> None:
        job = self.jobs[entry.key]
        self._ours.add(entry.key)
        try:
            handle = self.submitter.submit(job)
        except OSError as error:
            Word(exit_code=1, reason=f"it could not be started: {error}").leave(job.record.parent)
        else:
            self._change(self._entries[entry.key], handle=handle)

    def _enforce(self) -> None:
        """Call off what must end, and kill what did not end when asked."""
        limit = self.policy.timeout_hours
        for entry in self._in("running"):
            if self.is_stopping:
                self._ask_to_end(entry, "stopped")
            if limit is not None and self.clock() - entry.began > limit * 3600:
                self._ask_to_end(entry, "timed out")
            asked_at, _ = self._asked.get(entry.key, (float("inf"), "stopped"))
            late = self.clock() - asked_at > self.policy.kill_after_seconds
            if late and entry.key not in self._killed:
                self._killed.add(entry.key)
                self.submitter.cancel(entry.handle, force=True)

    def _ask_to_end(self, entry: Entry, why: State) -> None:
        if entry.handle and entry.key not in self._asked:
            self._asked[entry.key] = (self.clock(), why)
            self.submitter.cancel(entry.handle, force=False)

    def _conclude(self, entry: Entry, ending: Ending) -> None:
        """Where a job stands that runs no more."""
        job, now = self.jobs[entry.key], self.clock()
        word = Word.of(job.record.parent)
        code = word.exit_code if word else ending.exit_code
        _, asked_for = self._asked.pop(entry.key, (0.0, None))
        self._killed.discard(entry.key)
        ours = entry.key in self._ours
        self._ours.discard(entry.key)
        ended = now if ours else min(now, max(entry.began, _last_sign_of(job)))
        changes: dict[str, object] = {"handle": "", "seconds": entry.elapsed(ended)}
        if code == 0:
            changes |= {"state": "finished", "reason": ""}
        elif asked_for == "timed out":
            hours = self.policy.timeout_hours
            changes |= {"state": "timed out", "reason": f"took longer than {hours:g} h"}
        elif asked_for == "stopped":
            changes |= {"state": "stopped", "reason": "asked to stop"}
        elif code in (None, STOPPED_EXIT_CODE) and not ours:
            # its queue was killed, and it with it: nothing is wrong with the job
            changes |= {"state": "waiting", "reason": "interrupted"}
        elif code in (STOPPED_EXIT_CODE, -signal.SIGTERM):
            changes |= {"state": "stopped", "reason": "asked to stop by somebody else"}
            self.is_stopping = self.is_stopping or self.submitter.is_here
        else:
            last_line = Outcome(job, 1 if code is None else code).last_line
            reason = word.reason if word and word.reason else last_line
            changes |= self._after_failure(entry, code, reason)
        self._change(entry, **changes)

    def _after_failure(self, entry: Entry, code: int | None, reason: str) -> dict[str, object]:
        failures = entry.failures + 1
        if code == MISTAKE_EXIT_CODE or failures > self.policy.retries:
            return {"state": "failed", "failures": failures, "reason": reason}
        pause = self.policy.pause_seconds * 2 ** (failures - 1)
        return {
            "state": "waiting",
            "failures": failures,
            "not_before": self.clock() + pause,
            "reason": reason,
        }


def _last_sign_of(job: Job) -> float:
    """When a job last wrote to its log or said how it ended, in seconds since 1970."""
    times = [0.0]
    for path in (job.log, job.record.parent / WORD_FILE):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times)
