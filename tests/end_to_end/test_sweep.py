"""Sweeps of real trainings: one under mlflow's eyes, one killed in the middle and gone on with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import psutil
import pytest
from end_to_end_support import TINY, environment

from bratsml.workflows.sweep import run_sweep
from bratsml.workflows.sweep_plan import SweepOptions

pytestmark = pytest.mark.slow

SMALL = f"{TINY} train.epochs=1 loader.patch=[16,16,16] inference.window=[32,32,32]"


@pytest.fixture
def client(project: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")


def table(client: mlflow.MlflowClient, run_id: str, folder: Path) -> pd.DataFrame:
    return pd.read_csv(client.download_artifacts(run_id, "sweep/results.csv", str(folder)))


@pytest.fixture
def sweep(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``bratsml sweep`` in this process (starting another costs seconds); gives the run id."""
    monkeypatch.chdir(project)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    return lambda **options: run_sweep(SweepOptions(**options))


def test_a_sweep_leaves_a_parent_with_a_finished_run_per_combination(
    sweep: Callable[..., str],
    raw_cases: Path,
    client: mlflow.MlflowClient,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = {
        "experiment": "experiments/unet.yaml",
        "grid": ["optim.lr=1e-3,3e-4"],
        "data": str(raw_cases),
        "overrides": [f"{SMALL} launcher.kind=inline"],
        "launcher": "inline",
    }
    run_id = sweep(**options)
    said = " ".join(capsys.readouterr().out.split())
    assert "too few patients to tell: optim.lr=0.0003 minus the base (optim.lr=0.001)" in said
    parent = client.get_run(run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["grid.optim.lr"] == "0.001, 0.0003"
    assert "optim.lr" not in parent.data.params  # it differs between the combinations
    results = table(client, parent.info.run_id, tmp_path)
    assert list(results["combination"]) == ["optim.lr=0.001", "optim.lr=0.0003"]
    assert list(results["state"]) == ["finished"] * 2
    for row in results.to_dict("records"):
        child = client.get_run(row["run_id"])
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.info.status == "FINISHED"
        assert row["dice_mean"] == pytest.approx(child.data.metrics["oof/dice/mean"])
        assert row["dice_mean_low95"] == pytest.approx(child.data.metrics["oof/dice/mean_low95"])
    artifacts = {a.path for a in client.list_artifacts(parent.info.run_id, "sweep")}
    assert {"sweep/figures.html", "sweep/results.csv", "sweep/top_against_base.csv"} <= artifacts
    assert sweep(**options) == run_id
    assert "already done" in capsys.readouterr().out


def wait_for(condition: Callable[[], object], seconds: float = 200.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


def is_working(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def begun_in(project: Path) -> set[Path]:
    """Records of the runs that sweeps have begun."""
    return set(project.glob("outputs/sweep-unet-*/combination_*/run.json"))


@pytest.mark.timeout(600)
def test_a_sweep_killed_in_the_middle_goes_on_in_the_same_runs(
    project: Path, raw_cases: Path, client: mlflow.MlflowClient, tmp_path: Path
) -> None:
    command = [
        sys.executable, "-m", "bratsml.cli", "sweep", "unet", "--grid", "seed=7",
        "--command", "train", "--data", str(raw_cases), "--set", f"{SMALL} train.epochs=8",
    ]  # fmt: skip
    options = {"cwd": project, "env": environment(), "text": True}
    before = begun_in(project)  # by the tests above
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    progress = "outputs/train-unet-*/progress.json"
    wait_for(lambda: any(project.glob(progress)))
    left_behind = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(signal.SIGKILL)
    first.wait()
    queue_file = next(project.glob("outputs/sweep-unet-*/queue.json"), None)
    (file,) = begun_in(project) - before
    begun = json.loads(file.read_text())["run_id"]
    # at once, while the training that was left alone still saves
    second = subprocess.run(command, capture_output=True, timeout=500, check=False, **options)
    assert second.returncode == 0, second.stdout + second.stderr
    assert not any(is_working(process) for process in left_behind)
    assert queue_file is not None
    matched = re.search(r"\brun ([0-9a-f]{32})", second.stdout)
    assert matched
    results = table(client, matched[1], tmp_path)
    assert (list(results["state"]), list(results["run_id"])) == (["finished"], [begun])
    assert results["attempts"][0] == 2
    history = client.get_metric_history(begun, "train/loss")
    assert sorted(point.step for point in history) == list(range(8))  # each epoch once
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {run.info.status for run in runs} == {"FINISHED"}
    sweeps = [run for run in runs if run.data.tags.get("bratsml.command") == "sweep"]
    assert len([run for run in sweeps if run.data.params.get("command") == "train"]) == 1
