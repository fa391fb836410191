"""The real ``mlflow run`` on a small project of our name, without conda on the machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from bratsml.tracking.store import TrackingStore

pytestmark = pytest.mark.slow

PROJECT = """\
name: bratsml
conda_env: conda.yaml
entry_points:
  cv:
    parameters:
      model: {type: string, default: ""}
      data: {type: string, default: ""}
    command: "python work.py {model} {data}"
"""
WORK = """\
import os, signal, sys, time
from bratsml.tracking.mlflow_tracker import find_finished_run, open_run

if done := find_finished_run("request"):
    sys.exit(print("already done:", done))
tracker = open_run(
    command="cv", experiment_name="bratsml", run_name="cv unet", fingerprint="request"
)

def stop(number, frame):
    tracker.finish("KILLED")
    sys.exit(143)

signal.signal(signal.SIGTERM, stop)
tracker.log_params({"model": "resolved"})
for step in range(10):
    tracker.log_metrics({"train/loss": 1 / (1 + step)}, step)
    if step == 4 and sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if step == 6 and sys.argv[1] == "stopped":
        open("at work", "w").close()
        time.sleep(60)
tracker.finish("FINISHED")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "MLproject").write_text(PROJECT)
    (tmp_path / "conda.yaml").write_text("dependencies: [python=3.11]\n")
    (tmp_path / "work.py").write_text(WORK)
    (tmp_path / "inner").mkdir()
    return tmp_path


def start(*arguments: str, folder: Path, **variables: str) -> subprocess.Popen[str]:
    """``mlflow run`` called by its path, in a shell without an activated environment."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW", "CONDA"))
    }
    environment |= {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "mlflow"), "run", *arguments],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run(*arguments: str, folder: Path, **variables: str) -> tuple[int, str]:
    process = start(*arguments, folder=folder, **variables)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def recorded(project: Path) -> list[tuple[str, str]]:
    """Id and status of every run that is not deleted, oldest first."""
    store = TrackingStore(project, f"sqlite:///{project}/mlflow.db")
    runs = store.client.search_runs(["0", "1"], order_by=["attributes.start_time"])
    return [(found.info.run_id, found.info.status) for found in runs]


def test_the_same_command_until_it_is_done(project: Path) -> None:
    code, output = run(".", "-e", "cv", "-P", "model=killed", folder=project)
    assert code == 1, output
    assert "no conda here, so this runs in the current environment" in output
    ((run_id, _),) = recorded(project)

    process = start("..", "-e", "cv", "-P", "model=stopped", folder=project / "inner")
    give_up = time.monotonic() + 60
    while not (project / "at work").exists() and time.monotonic() < give_up:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert "Traceback" not in output
    assert recorded(project) == [(run_id, "KILLED")]

    code, output = run(".", "-e", "cv", "-P", "model=unet", folder=project)
    assert code == 0, output
    assert recorded(project) == [(run_id, "FINISHED")]

    code, output = run(".", "-e", "cv", "-P", "model=unet", folder=project)
    assert code == 0, output
    assert f"already done: {run_id}" in output
    assert recorded(project) == [(run_id, "FINISHED")]

    store = TrackingStore(project, f"sqlite:///{project}/mlflow.db")
    curve = store.client.get_metric_history(run_id, "train/loss")
    assert sorted(point.step for point in curve) == list(range(10))


def test_a_signal_reaches_the_work_and_the_run_is_killed_not_failed(project: Path) -> None:
    process = start(".", "-e", "cv", "-P", "model=stopped", "-P", "data=/scans/doe", folder=project)
    give_up = time.monotonic() + 60
    while not (project / "at work").exists() and time.monotonic() < give_up:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    ((run_id, status),) = recorded(project)
    store = TrackingStore(project, f"sqlite:///{project}/mlflow.db")
    found = store.client.get_run(run_id)
    assert (process.returncode, status) == (1, "KILLED"), output
    assert found.data.params == {"model": "resolved"}
    assert "doe" not in str(found.data.tags)
    assert "mlflow.user" not in found.data.tags


def test_what_cannot_start_leaves_no_run_behind_that_looks_alive(project: Path) -> None:
    code, output = run(".", "-e", "nothing", folder=project)
    assert code == 1
    assert "Traceback" not in output
    assert recorded(project) == []
    (project / "work.py").unlink()
    code, output = run(".", "-e", "cv", folder=project)
    assert code == 1
    assert [status for _, status in recorded(project)] == ["FAILED"]


def test_the_experiment_can_be_chosen_by_the_environment(project: Path) -> None:
    code, output = run(".", "-e", "cv", folder=project, MLFLOW_EXPERIMENT_NAME="mine")
    assert code == 0, output
    store = TrackingStore(project, f"sqlite:///{project}/mlflow.db")
    experiment = store.client.get_experiment_by_name("mine")
    runs = store.client.search_runs([experiment.experiment_id])
    assert [found.info.status for found in runs] == ["FINISHED"]
    assert experiment.artifact_location == (project / "mlruns" / "mine").as_uri()


def test_other_projects_are_left_to_mlflow(tmp_path: Path) -> None:
    (tmp_path / "MLproject").write_text(PROJECT.replace("name: bratsml", "name: other"))
    (tmp_path / "conda.yaml").write_text("dependencies: [python=3.11]\n")
    code, output = run(".", "-e", "cv", folder=tmp_path)
    assert code == 1
    assert "Could not find Conda executable" in output
    assert "bratsml" not in output


def test_mlflow_ui_without_flags_shows_runs_and_files(project: Path) -> None:
    code, output = run(".", "-e", "cv", folder=project)
    assert code == 0, output
    ((run_id, _),) = recorded(project)
    artifact = project / "mlruns" / "bratsml" / run_id / "artifacts" / "note.txt"
    artifact.parent.mkdir(parents=True, exist_ok=True)
    artifact.write_text("seen")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW")}
    ui = subprocess.Popen(
        # port and workers only keep the test apart and light; nothing says where the runs are
        [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"],
        cwd=project,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        base = f"http://127.0.0.1:{port}"
        give_up = time.monotonic() + 90
        while time.monotonic() < give_up:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{base}/health"):
                break
            time.sleep(0.3)
        address = f"{base}/ajax-api/2.0/mlflow/runs/get?run_id={run_id}"
        with urllib.request.urlopen(address) as answer:
            shown = json.load(answer)["run"]
        assert shown["info"]["run_name"] == "cv unet"
        address = f"{base}/get-artifact?path=note.txt&run_uuid={run_id}"
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == b"seen"
    finally:
        os.killpg(ui.pid, signal.SIGKILL)
        ui.wait()
