from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from bratsml.compute.launcher import InlineLauncher, Job, LauncherConfig, Outcome, ProcessLauncher

MODULE = """
import json, sys, time, signal
order = json.loads(open(sys.argv[1]).read())
if order["listen"]:
    signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(143)))
print("working", flush=True)
time.sleep(order["sleep"])
if order["fail"]:
    print("bratsml: the reason", flush=True)
    sys.exit(3)
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "work_module.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, sleep: float = 0.0, fail: bool = False, listen: bool = False) -> Job:
        import json

        record = tmp_path / f"{name}.json"
        record.write_text(json.dumps({"sleep": sleep, "fail": fail, "listen": listen}))
        return Job(name, "work_module", record, tmp_path / f"{name}.log")

    return make


def ignore(_: list[Outcome]) -> None:
    return


@pytest.mark.parametrize("launcher", [InlineLauncher(), ProcessLauncher(2, threads=1)])
def test_a_failed_job_leaves_the_others_standing(launcher, job) -> None:
    outcomes = launcher.run([job("a"), job("b", fail=True), job("c")], ignore)
    assert [o.job.name for o in outcomes] == ["a", "b", "c"]
    assert [o.state for o in outcomes] == ["finished", "failed", "finished"]


def test_the_log_says_why_a_job_failed(job) -> None:
    (outcome,) = ProcessLauncher(1, threads=1).run([job("b", fail=True)], ignore)
    assert outcome.last_line == "bratsml: the reason"


def test_a_request_to_stop_reaches_the_running_jobs_and_starts_no_more(job) -> None:
    jobs = [job("a", sleep=60, listen=True), job("b", sleep=60, listen=True)]
    log = jobs[0].log

    def ask() -> None:
        while not (log.exists() and "working" in log.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask, daemon=True).start()
    outcomes = ProcessLauncher(1, threads=1).run(jobs, ignore)
    assert [(o.job.name, o.state) for o in outcomes] == [("a", "stopped")]
    assert "saved" in log.read_text()


def test_a_killed_job_counts_as_failed_and_says_so(job) -> None:
    launcher = ProcessLauncher(1, threads=1)
    the_job = job("a", sleep=60)
    started = launcher.start(the_job, slot=0)
    started.kill()
    outcome = Outcome(the_job, started.wait())
    assert outcome.state == "failed"
    assert "out of memory" in outcome.last_line


def test_default_launcher_uses_at_most_two_cores_or_every_gpu() -> None:
    on_cpu, on_gpus = LauncherConfig().build(0), LauncherConfig().build(3)
    assert isinstance(on_cpu, ProcessLauncher)
    assert isinstance(on_gpus, ProcessLauncher)
    assert on_cpu.parallel == min(2, os.cpu_count() or 1)
    assert on_gpus.parallel == 3


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_jobs_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    import subprocess

    child = (
        "import sys, time; sys.path[:0] = sys.argv[1:]; "
        "from bratsml.compute.launcher import stop_when_parent_ends; "
        "stop_when_parent_ends(); print('up', flush=True); time.sleep(60)"
    )
    parent = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
        "stdout=subprocess.PIPE, text=True); p.stdout.readline(); print(p.pid, flush=True); "
        "p.wait()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", parent, child], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the job outlived the process that started it")
