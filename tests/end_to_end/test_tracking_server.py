"""A real MLflow server, killed and started again while a run records in it."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from bratsml.tracking import mlflow_run
from bratsml.tracking.delivery import models_of
from bratsml.tracking.mlflow_tracker import open_run
from bratsml.tracking.runs import best_checkpoint, find_run, read_json_artifact
from bratsml.tracking.store import TrackingStore

pytestmark = pytest.mark.slow

LONGEST_CALL_SECONDS = 8.0
"""What one call may take when the server has just gone; MLflow alone waits about a minute."""


class Server:
    """``mlflow server`` on a free port, with its own folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = ["server", "--port", str(self.port), "--workers", "1"]
        store = ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        artifacts = ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, *store, *artifacts],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        give_up = time.monotonic() + 90
        while time.monotonic() < give_up:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health"):
                return
            time.sleep(0.3)
        raise TimeoutError("the MLflow server did not start")

    def kill(self) -> None:
        """SIGKILL to the server and its workers: its own session, started here."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                import os
                import signal

                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    server.start()
    yield server
    server.kill()


def test_every_step_arrives_once_although_the_server_is_killed_twice(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mlflow_run, "LAST_WAIT_SECONDS", 120.0)
    root = tmp_path / "project"
    names = {"experiment_name": "bratsml", "run_name": "r", "fingerprint": "f", "root": root}
    tracker = open_run(command="cv", **names)
    best = tmp_path / "best.pt"
    best.write_bytes(b"weights")
    longest, fold = 0.0, None
    with caplog.at_level(logging.WARNING, logger="bratsml.tracking"):
        for step in range(40):
            if step in (5, 25):
                server.kill()
            if step in (15, 35):
                server.start()
            before = time.monotonic()
            tracker.log_metrics({"train/loss": float(step), "val/dice/mean": step / 40}, step)
            tracker.log_json({"step": step}, f"steps/{step}.json")
            if step == 10:
                fold = tracker.child("fold 0", key="fold_0")
                fold.log_metrics({"train/loss": 1.0}, 0)
                fold.log_checkpoint(best, "best", 0, {"train/loss": 1.0})
            longest = max(longest, time.monotonic() - before)
            time.sleep(0.05)
        fold.finish("FINISHED")
        tracker.finish("FINISHED")
    store = TrackingStore.locate(root)
    run = find_run(tracker.run_id, root)
    for name in ("train/loss", "val/dice/mean"):
        found = store.client.get_metric_history(tracker.run_id, name)
        assert sorted(point.step for point in found) == list(range(40))
    assert read_json_artifact(run, "steps/20.json", root) == {"step": 20}
    assert [child.status for child in run.children] == ["FINISHED"]
    assert len(models_of(store, run.experiment_id, run.children[0].run_id, "best")) == 1
    assert best_checkpoint(run.children[0], root).read_bytes() == b"weights"
    assert longest < LONGEST_CALL_SECONDS
    assert "the work goes on" in caplog.text
    assert "Traceback" not in caplog.text
    assert not [path for path in store.spool.glob("*") if path.is_dir()]


def test_what_waits_at_the_end_comes_with_the_next_start(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_run, "LAST_WAIT_SECONDS", 1.0)
    root = tmp_path / "project"
    root.mkdir()
    code = (
        "import sys, bratsml.tracking.mlflow_run as m\n"
        "from pathlib import Path\n"
        "from bratsml.tracking.mlflow_tracker import open_run\n"
        "m.LAST_WAIT_SECONDS = 1.0\n"
        "names = dict(command='cv', experiment_name='bratsml', run_name='r', fingerprint='f')\n"
        "tracker = open_run(**names, root=Path.cwd())\n"
        "print(tracker.run_id, flush=True)\n"
        "sys.stdin.readline()\n"
        "tracker.log_metrics({'train/loss': 0.5}, 0)\n"
        "tracker.finish('FINISHED')\n"
    )
    work = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=root,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    run_id = work.stdout.readline().strip()
    server.kill()
    _, said = work.communicate("go\n", timeout=60)
    assert work.returncode == 0, said
    assert "delivered by the next bratsml command" in said
    assert "Traceback" not in said
    server.start()
    names = {"experiment_name": "bratsml", "run_name": "next", "fingerprint": "g", "root": root}
    open_run(command="cv", **names).finish("FINISHED")
    store = TrackingStore.locate(root)
    run = store.client.get_run(run_id)
    assert (run.info.status, run.data.metrics["train/loss"]) == ("FINISHED", 0.5)
