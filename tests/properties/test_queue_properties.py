"""Whatever happens to queue and jobs, every job is accounted for exactly once."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bratsml.compute import queue as queue_module
from bratsml.compute import submit as submit_module
from bratsml.compute.launcher import MISTAKE_EXIT_CODE, STOPPED_EXIT_CODE, Job
from bratsml.compute.queue import JobQueue, QueuePolicy
from bratsml.compute.submit import Ending, Word

CODES = {"finish": 0, "fail": 1, "die": -9, "mistake": MISTAKE_EXIT_CODE}
NAMES = ("a", "b", "c")


class Killed(BaseException):
    """The process of the queue is gone from one instruction to the next."""


@dataclass
class World:
    """What really runs, whoever watches.

    Attributes:
        outlive: Whether jobs go on when the queue's process dies, as on a cluster.
    """

    folder: Path
    outlive: bool
    parallel: int = 2
    is_here: bool = False
    running: dict[str, str] = field(default_factory=dict)
    ended: dict[str, Ending] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    submitted: int = 0
    lost: set[str] = field(default_factory=set)
    kill_in_submit: bool = False

    def submit(self, job: Job) -> str:
        for handle, name in self.running.items():
            if name == job.name:  # the contract: no second job of one name
                return handle
        assert job.name not in self.finished, "a finished job was run again"
        assert len(self.running) < self.parallel
        self.submitted += 1
        handle = f"{job.name} {self.submitted}"
        self.running[handle] = job.name
        if self.kill_in_submit:
            self.kill_in_submit = False
            raise Killed
        return handle

    def poll(self, handle: str) -> Ending | None:
        if handle in self.running:
            return None
        return Ending(None) if handle in self.lost else self.ended.get(handle, Ending(None))

    def cancel(self, handle: str, *, force: bool) -> None:
        if handle in self.running:
            self.end(handle, -9 if force else STOPPED_EXIT_CODE)

    def end(self, handle: str, code: int, *, says: bool = True) -> None:
        name = self.running.pop(handle)
        if code == 0:
            self.finished.append(name)
        if code >= 0 and (says or code == 0):
            Word(exit_code=code).leave(self.folder / name)
        self.ended[handle] = Ending(code)

    def queue_died(self) -> None:
        """Exit codes are lost with the process; so are jobs that end with it."""
        self.lost |= set(self.ended)
        if not self.outlive:
            for handle in list(self.running):
                self.end(handle, STOPPED_EXIT_CODE)
                self.lost.add(handle)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([*CODES, "vanish"]), st.integers(0, 1)),
        st.tuples(st.sampled_from(["step", "kill", "kill in submit", "stop"]), st.just(0)),
        st.tuples(st.just("kill in save"), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.sampled_from([1, 100, 4000])),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=150)
@example(events=[("step", 0), ("kill in save", 0), ("mistake", 0)], outlive=False, timeout=None)
@example(events=[("kill in submit", 0), ("finish", 0)], outlive=True, timeout=None)
@given(events=EVENTS, outlive=st.booleans(), timeout=st.sampled_from([None, 1.0]))
def test_every_job_is_accounted_for_exactly_once(
    events: list[tuple[str, int]], outlive: bool, timeout: float | None
) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        for job in NAMES:
            (folder / job).mkdir()
        jobs = {n: Job(n, "m", folder / n / "job.json", folder / n / "job.log") for n in NAMES}
        world = World(folder, outlive)
        policy = QueuePolicy(retries=1, pause_seconds=10, timeout_hours=timeout)
        now = [1e9]
        saves_left = [-1]

        def save(path: Path, content: object) -> None:
            if saves_left[0] == 0:
                saves_left[0] = -1
                raise Killed  # before the file was replaced
            saves_left[0] -= saves_left[0] > 0
            write(path, content)

        def write(path: Path, content: object) -> None:
            path.write_text(json.dumps(content))  # the atomic one waits for the disk

        patch.setattr(queue_module, "write_json", save)
        patch.setattr(submit_module, "write_json", write)

        def start() -> JobQueue:
            return JobQueue(folder / "queue.json", jobs, world, policy, lambda: now[0])

        queue = start()
        for event, value in [*events, ("kill", 0)]:
            try:
                if event in CODES and len(world.running) > value:
                    world.end(list(world.running)[value], CODES[event])
                elif event == "vanish" and len(world.running) > value:
                    world.end(list(world.running)[value], 1, says=False)
                elif event == "wait":
                    now[0] += value
                elif event == "kill in submit":
                    world.kill_in_submit = True
                elif event == "kill in save":
                    saves_left[0] = value
                elif event == "stop":
                    queue.stop()
                elif event == "kill":
                    raise Killed
                queue.step()
            except Killed:
                saves_left[0] = -1
                world.kill_in_submit = False
                queue.close()
                world.queue_died()
                queue = start()
            known = [entry.key for entry in queue.entries]
            assert known == list(NAMES)

        # from here on all goes well; a mistake whose record was lost is heard of in the first
        # round, and tried again in the second, as after every new start
        for is_last in (False, True):
            for _ in range(60):
                queue.step()
                if queue.is_done:
                    break
                for handle in list(world.running):
                    world.end(handle, 0)
                now[0] += 30
            assert queue.is_done
            queue.close()
            if not is_last:
                queue = start()
        assert [entry.state for entry in queue.entries] == ["finished"] * 3
        assert sorted(world.finished) == list(NAMES)
        assert not world.running
