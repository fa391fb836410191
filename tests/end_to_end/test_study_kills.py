"""A study of real trainings, killed in the middle and started again; and one in PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import optuna
import pandas as pd
import psutil
import pytest
from end_to_end_support import environment

from bratsml.errors import BratsmlError
from bratsml.tuning.storage import StudyStorage
from bratsml.workflows.study import run_study
from bratsml.workflows.study_plan import parse

pytestmark = pytest.mark.slow

STUDY_FILE = '''
"""A study small enough for a test."""

from bratsml.tuning.settings import PrunerConfig, SamplerConfig
from bratsml.tuning.space import LogUniform, Space
from bratsml.workflows.study import main
from bratsml.workflows.study_plan import Budget, StudyPlan

STUDY = StudyPlan(
    name="tiny",
    base="unet",
    space=Space(dimensions={"optim.lr": LogUniform(low=1e-5, high=1e-1)}),
    changes={
        "model": {"channels": [4, 8], "strides": [2]},
        "loader": {"patch": [16, 16, 16], "samples_per_epoch": 4, "batch_size": 2, "workers": 0},
        "train": {"epochs": 3, "validate_every": 1},
        "inference": {"window": [32, 32, 32], "overlap": 0.0},
        "split": {"folds": 2},
    },
    sampler=SamplerConfig(kind="random"),
    pruner=PrunerConfig(kind="none"),
    budget=Budget(trials=3, reruns=0, vram_gb=None),
)

if __name__ == "__main__":
    main(STUDY)
'''


@pytest.fixture(scope="module")
def study_file(project: Path) -> Path:
    (project / "studies").mkdir()
    file = project / "studies" / "tiny.py"
    file.write_text(STUDY_FILE, encoding="utf-8")
    return file


def command(file: Path, data: Path, *more: str) -> list[str]:
    return [sys.executable, str(file), "--data", str(data), *more]


def start(project: Path, file: Path, data: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(file, data, *more),
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(condition, seconds: float = 90.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("it never came")


def processes(parent: psutil.Process, module: str) -> list[psutil.Process]:
    found = []
    for child in parent.children(recursive=True):
        try:
            if module in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def is_working(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # nobody may be there to collect it
    except psutil.Error:
        return False


def trained_epochs(project: Path) -> list[Path]:
    return list(project.glob("outputs/study-tiny-*/trial_*/fold_0/progress.json"))


def test_a_study_killed_in_trial_worker_and_study_loses_nothing(
    project: Path, study_file: Path, raw_cases: Path
) -> None:
    first = start(project, study_file, raw_cases, "--workers", "2")
    top = psutil.Process(first.pid)
    wait_for(lambda: trained_epochs(project))
    wait_for(lambda: processes(top, "study_trial"))[0].send_signal(signal.SIGKILL)
    wait_for(lambda: processes(top, "study_worker"))[0].send_signal(signal.SIGKILL)
    left_behind = top.children(recursive=True)
    top.send_signal(signal.SIGKILL)
    first.wait()
    # workers and trials notice that they are alone, save and end
    wait_for(lambda: not any(is_working(process) for process in left_behind), 120)

    done = subprocess.run(
        command(study_file, raw_cases, "--workers", "2"),
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{project / 'studies.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    assert study.trials[0].params == {"optim.lr": 1e-4}  # the default comes first

    client = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {run.info.status for run in runs} == {"FINISHED"}
    parents = [run for run in runs if run.info.run_name == "study tiny"]
    assert len(parents) == 1
    children = [run for run in runs if run not in parents]
    assert sorted(run.data.tags["bratsml.key"] for run in children) == [
        "trial_0",
        "trial_1",
        "trial_2",
    ]
    for run in children:
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert sorted(point.step for point in history) == [0, 1, 2]  # each epoch once
        assert {"experiment.yaml", "overlays", "scores", "profiler"} <= {
            artifact.path for artifact in client.list_artifacts(run.info.run_id)
        }
    names = {a.path for a in client.list_artifacts(parents[0].info.run_id, "study")}
    assert {"study/figures.html", "study/trials.csv", "study/plan.json"} <= names
    assert parents[0].data.metrics["study/complete"] == 3.0


@pytest.fixture
def ask(
    project: Path, study_file: Path, raw_cases: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """The study file's command, in this process; gives the run id."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("BRATSML_STUDY_STORAGE", "")  # and put back what the study sets
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    plan = runpy.run_path(str(study_file))["STUDY"]
    return lambda *more: run_study(*parse(plan, ["--data", str(raw_cases), *more]))


def test_a_finished_study_is_not_run_again(ask, capsys: pytest.CaptureFixture[str]) -> None:
    ask()
    assert "already done" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--storage", "postgresql+psycopg2://me:secret@127.0.0.1:1/none"],
            "driver|cannot be used",
        ),
        (["--storage", "redis://me:secret@x"], "must be sqlite"),
        (["--set", "model.channels=[4,8,16]"], "strides"),
        (["--set", "train.epochs=4"], "holds trials of something else.*train.epochs: 3 -> 4"),
        (["--folds", "9"], "folds=9"),
    ],
)
def test_bad_input_is_one_sentence_before_work(ask, arguments: list[str], said: str) -> None:
    with pytest.raises(BratsmlError, match=said) as caught:
        ask(*arguments)
    assert "secret" not in str(caught.value)


# ----------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server that lives as long as the tests of this file."""
    for tool in ("initdb", "postgres", "pg_ctl"):
        if shutil.which(tool) is None:
            pytest.skip(f"PostgreSQL is not installed: no {tool}")
    if not any(importlib.util.find_spec(name) for name in ("psycopg", "psycopg2")):
        pytest.skip("no driver for PostgreSQL: pip install 'bratsml[postgres]'")
    user = {"user": "nobody"} if os.geteuid() == 0 else {}  # the server refuses to be root
    # a short path of its own: the server's user must be able to reach it
    folder = Path("/tmp") / f"bratsml-postgres-{os.getpid()}"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "check": True, **user}
    subprocess.run(["initdb", "-D", data, "-U", "me", "-A", "trust", "--no-sync"], **quiet)
    options = f"-p {port} -h 127.0.0.1 -k {folder} -F"
    subprocess.run(
        ["pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start"], **quiet
    )
    yield f"postgresql://me@127.0.0.1:{port}/postgres"
    subprocess.run(["pg_ctl", "-D", data, "-m", "immediate", "stop"], **quiet)
    shutil.rmtree(folder, ignore_errors=True)


CLAIMER = """
import os, sys, time
from pathlib import Path
from bratsml.tuning.settings import SamplerConfig
from bratsml.tuning.space import LogUniform, Space
from bratsml.tuning.storage import StudyStorage
from bratsml.tuning.study import Claim, Result, SharedStudy

space = Space(dimensions={"optim.lr": LogUniform(low=1e-5, high=1e-1)})
study = SharedStudy.create(StudyStorage(sys.argv[1]), "s", space, ["dice"], {"data": 1})
alive = lambda tags: Path(f"/proc/{tags['pid']}").exists()
print("ready", flush=True)
while (taken := study.claim({"pid": str(os.getpid())}, alive, SamplerConfig(), 0, 20)) != "done":
    if isinstance(taken, Claim):
        time.sleep(0.05)
        study.tell(taken.number, Result("complete", values=(0.5,)))
"""


def test_workers_share_a_study_in_postgresql_and_one_killed_loses_nothing(postgres: str) -> None:
    def claimer() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", CLAIMER, postgres],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )

    workers = [claimer(), claimer()]  # both make the storage: first use is a race
    victim = workers[0]
    assert victim.stdout is not None
    assert victim.stdout.readline() == "ready\n"
    time.sleep(0.3)
    victim.kill()
    victim.wait()
    assert workers[1].wait(timeout=100) == 0
    study = optuna.load_study(study_name="s", storage=StudyStorage(postgres).connect())
    states = pd.Series([trial.state.name for trial in study.trials])
    assert states.value_counts().to_dict() == {"COMPLETE": 20}
