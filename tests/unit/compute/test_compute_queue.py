"""A queue of jobs under a launcher that does what the test says."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bratsml.compute.launcher import MISTAKE_EXIT_CODE, STOPPED_EXIT_CODE, Job, ProcessLauncher
from bratsml.compute.queue import JobQueue, QueuePolicy
from bratsml.compute.submit import Ending, InlineSubmitter, ProcessSubmitter, Word
from bratsml.errors import ResourceError


@dataclass
class Scripted:
    """Jobs end when, and as, the test says."""

    parallel: int = 1
    is_here: bool = False
    submitted: list[str] = field(default_factory=list)
    endings: dict[str, Ending] = field(default_factory=dict)
    cancelled: list[tuple[str, bool]] = field(default_factory=list)

    def submit(self, job: Job) -> str:
        self.submitted.append(job.name)
        return f"{job.name} {len(self.submitted)}"

    def poll(self, handle: str) -> Ending | None:
        return self.endings.get(handle)

    def cancel(self, handle: str, *, force: bool) -> None:
        self.cancelled.append((handle, force))

    def end(self, code: int | None) -> None:
        """End the latest attempt."""
        self.endings[f"{self.submitted[-1]} {len(self.submitted)}"] = Ending(code)


@dataclass
class Clock:
    now: float = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock):
    """Opens the queue of jobs a, b, ... with a launcher; lets go of the one before."""
    opened: list[JobQueue] = []

    def make(
        launcher: Scripted | InlineSubmitter | ProcessSubmitter,
        names: str = "ab",
        job: Callable[[str], Job] | None = None,
        **policy: object,
    ) -> JobQueue:
        for earlier in opened:
            earlier.close()

        def plain(name: str) -> Job:
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            return Job(name, "module", folder / "job.json", folder / "job.log")

        settings = QueuePolicy.model_validate({"retries": 1, "pause_seconds": 10.0, **policy})
        jobs = {name: (job or plain)(name) for name in names}
        opened.append(JobQueue(tmp_path / "queue.json", jobs, launcher, settings, clock))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def states(queue: JobQueue) -> list[str]:
    return [entry.state for entry in queue.entries]


def test_one_job_after_another_in_their_order(queue, clock: Clock) -> None:
    launcher = Scripted()
    q = queue(launcher)
    q.step()
    assert states(q) == ["running", "waiting"]
    clock.now += 7
    launcher.end(0)
    q.step()
    assert states(q) == ["finished", "running"]
    assert (q.entries[0].seconds, q.entries[0].attempts) == (7.0, 1)
    launcher.end(0)
    q.step()
    assert q.is_done


def test_as_many_at_a_time_as_the_launcher_takes(queue) -> None:
    q = queue(Scripted(parallel=2), "abc")
    q.step()
    assert states(q) == ["running", "running", "waiting"]


def test_a_failure_is_tried_again_after_pauses_that_double(queue, clock: Clock) -> None:
    launcher = Scripted()
    q = queue(launcher, "a", retries=2)
    for pause in (10.0, 20.0):
        q.step()
        launcher.end(1)
        q.step()
        assert q.entries[0].not_before == clock.now + pause
        clock.now += pause - 1
        q.step()
        assert states(q) == ["waiting"]
        clock.now += 1
    q.step()
    launcher.end(1)
    q.step()
    assert states(q) == ["failed"]
    assert len(launcher.submitted) == q.entries[0].attempts == 3


def test_others_go_on_during_the_pause(queue) -> None:
    launcher = Scripted()
    q = queue(launcher)
    q.step()
    launcher.end(1)
    q.step()
    assert states(q) == ["waiting", "running"]


def test_a_mistake_of_the_user_is_not_tried_again_and_keeps_its_sentence(
    queue, tmp_path: Path
) -> None:
    launcher = Scripted()
    q = queue(launcher, "a")
    q.step()
    Word(exit_code=MISTAKE_EXIT_CODE, reason="train.epochs must be above 0").leave(tmp_path / "a")
    launcher.end(MISTAKE_EXIT_CODE)
    q.step()
    assert states(q) == ["failed"]
    assert q.entries[0].reason == "train.epochs must be above 0"


def test_the_word_of_an_earlier_attempt_does_not_count(queue, tmp_path: Path) -> None:
    Word(exit_code=0).leave(tmp_path / "a")
    launcher = Scripted()
    q = queue(launcher, "a", retries=0)
    q.step()
    launcher.end(-9)
    q.step()
    assert states(q) == ["failed"]
    assert "SIGKILL" in q.entries[0].reason


def test_what_takes_too_long_is_asked_to_end_then_killed(queue, clock: Clock) -> None:
    launcher = Scripted()
    q = queue(launcher, "a", timeout_hours=1.0, kill_after_seconds=60.0)
    q.step()
    clock.now += 3600
    q.step()
    assert not launcher.cancelled
    clock.now += 1
    q.step()
    q.step()
    assert launcher.cancelled == [("a 1", False)]
    clock.now += 61
    q.step()
    q.step()
    assert launcher.cancelled == [("a 1", False), ("a 1", True)]
    launcher.end(-9)
    q.step()
    assert states(q) == ["timed out"]
    assert q.entries[0].reason == "took longer than 1 h"
    assert q.is_done


def test_a_job_that_finishes_just_after_the_time_out_is_finished(queue, clock: Clock) -> None:
    launcher = Scripted()
    q = queue(launcher, "a", timeout_hours=1.0)
    q.step()
    clock.now += 3601
    q.step()
    launcher.end(0)
    q.step()
    assert states(q) == ["finished"]


def test_a_stop_ends_what_runs_and_starts_nothing(queue) -> None:
    launcher = Scripted()
    q = queue(launcher)
    q.step()
    q.stop()
    launcher.end(STOPPED_EXIT_CODE)
    q.step()
    assert states(q) == ["stopped", "waiting"]
    assert launcher.cancelled == [("a 1", False)]
    again = queue(Scripted())
    assert states(again) == ["waiting", "waiting"]


def test_finished_jobs_are_not_run_again_and_failed_ones_are(queue) -> None:
    launcher = Scripted()
    q = queue(launcher, retries=0)
    for code in (0, 1):
        q.step()
        launcher.end(code)
    q.step()
    assert states(q) == ["finished", "failed"]
    again = queue(Scripted(), retries=0)
    again.step()
    assert states(again) == ["finished", "running"]
    assert again.entries[1].attempts == 2


def test_a_job_that_outlived_its_queue_is_not_started_again(queue) -> None:
    launcher = Scripted()
    queue(launcher, "a").step()
    again = queue(launcher, "a")  # the launcher still knows it, as a cluster does
    again.step()
    assert launcher.submitted == ["a"]
    launcher.end(0)
    again.step()
    assert states(again) == ["finished"]


def test_a_job_that_ended_with_its_queue_waits_again_without_a_failure(queue) -> None:
    queue(Scripted(), "a").step()
    launcher = Scripted()
    launcher.endings["a 1"] = Ending(None)
    again = queue(launcher, "a", retries=0)
    again.step()
    assert states(again) == ["running"]
    assert launcher.submitted == ["a"]
    assert again.entries[0].attempts == 2


def test_a_launcher_that_cannot_start_a_job_is_a_failure(queue) -> None:
    class Broken(Scripted):
        def submit(self, job: Job) -> str:
            raise OSError("no memory")

    q = queue(Broken(), "a", retries=0)
    q.step()
    q.step()
    assert states(q) == ["failed"]
    assert "no memory" in q.entries[0].reason


def test_a_queue_has_one_process(queue, tmp_path: Path) -> None:
    queue(Scripted(), "a")
    with pytest.raises(ResourceError, match="another process works on the queue"):
        JobQueue(tmp_path / "queue.json", {}, Scripted(), QueuePolicy())


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read"), ("[]", "cannot be read"), ('{"entries": []}', "of other jobs")],
)
def test_a_damaged_file_is_one_sentence(queue, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "queue.json").write_text(content)
    with pytest.raises(ResourceError, match=message):
        queue(Scripted())


# ------------------------------------------------------------------ real launchers

MODULE = """
import json, os, signal, sys, time
order = json.loads(open(sys.argv[1]).read())
if order["deaf"]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("working", flush=True)
if order["hit"]:
    os.kill(os.getppid() if order["hit"] == "parent" else os.getpid(), signal.SIGTERM)
time.sleep(order["sleep"])
sys.exit(order["code"])
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "queued_module.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(sleep: float = 0.0, code: int = 0, deaf: bool = False, hit: str = ""):
        def one(name: str) -> Job:
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            order = {"sleep": sleep, "code": code, "deaf": deaf, "hit": hit}
            (folder / "job.json").write_text(json.dumps(order))
            return Job(name, "queued_module", folder / "job.json", folder / "job.log")

        return one

    return make


def processes(parallel: int = 1) -> ProcessSubmitter:
    return ProcessSubmitter(ProcessLauncher(parallel, threads=0))


@pytest.mark.parametrize("make", [InlineSubmitter, processes])
def test_jobs_run_and_their_ends_are_known(queue, job, make) -> None:
    assert queue(make(), job=job()).run(lambda _: None)
    assert states(queue(make(), job=job())) == ["finished", "finished"]


def test_a_request_to_stop_ends_running_processes(queue, job, tmp_path: Path) -> None:
    q = queue(processes(), job=job(sleep=60))
    log = tmp_path / "a" / "job.log"

    def ask() -> None:
        while not (log.exists() and "working" in log.read_text()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=ask, daemon=True).start()
    assert not q.run(lambda _: None)
    assert states(q) == ["stopped", "waiting"]


def test_a_process_that_does_not_listen_is_killed(queue, job, tmp_path: Path, clock) -> None:
    q = queue(
        processes(), "a", job=job(sleep=60, deaf=True), timeout_hours=1.0, kill_after_seconds=1.0
    )
    log = tmp_path / "a" / "job.log"

    def watch(_: object) -> None:
        if log.exists() and "working" in log.read_text():
            clock.now += 3601

    assert q.run(watch)
    assert states(q) == ["timed out"]


def test_a_request_to_stop_during_an_inline_job_ends_the_queue_after_it(queue, job) -> None:
    q = queue(InlineSubmitter(), job=job(code=STOPPED_EXIT_CODE, hit="me"))
    assert not q.run(lambda _: None)
    assert states(q) == ["stopped", "waiting"]


def test_a_bug_in_an_inline_job_is_a_failure_with_its_traceback_in_the_log(
    queue, job, tmp_path: Path
) -> None:
    one = job()

    def broken(name: str) -> Job:
        made = one(name)
        made.record.write_text("{}")
        return made

    q = queue(InlineSubmitter(), "a", job=broken, retries=0)
    assert q.run(lambda _: None)
    assert states(q) == ["failed"]
    assert "KeyError" in (tmp_path / "a" / "job.log").read_text()


def test_a_process_of_an_earlier_queue_is_known_by_its_start(job) -> None:
    first = processes()
    handle = first.submit(job(sleep=60)("a"))
    later = processes()
    assert later.poll(handle) is None
    pid = handle.split()[0]
    assert later.poll(f"{pid} 12.00") == Ending(None)  # the id was given to another process
    later.cancel(handle, force=True)
    while first.poll(handle) is None:
        time.sleep(0.01)
    assert later.poll(handle) == Ending(None)
