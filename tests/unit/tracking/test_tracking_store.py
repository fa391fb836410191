from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bratsml.errors import TrackingError
from bratsml.tracking.store import TrackingStore, project_root, ui_address, ui_command


def test_the_project_is_found_upward(tmp_path: Path) -> None:
    inner = tmp_path / "project" / "experiments" / "deep"
    inner.mkdir(parents=True)
    (tmp_path / "project" / "MLproject").write_text("# comment\nname: bratsml\n")
    assert project_root(inner) == tmp_path / "project"


@pytest.mark.parametrize("text", ["name: other\n", "name: bratsml2\n", ""])
def test_another_project_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "MLproject").write_text(text)
    assert project_root(tmp_path) == tmp_path
    (tmp_path / "inner").mkdir()
    assert project_root(tmp_path / "inner") == tmp_path / "inner"


def test_the_store_lies_in_the_project_wherever_the_command_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "MLproject").write_text("name: bratsml\n")
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    store = TrackingStore.locate()
    assert store.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert store.artifacts == tmp_path / "mlruns"


def test_a_given_uri_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/else/where.db")
    assert TrackingStore.locate(tmp_path).artifacts == tmp_path / "else" / "mlruns"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert TrackingStore.locate(tmp_path).is_remote
    assert ui_command(tmp_path) == ""


@pytest.mark.parametrize("uri", ["file:///tmp/x", "./mlruns"])
def test_a_folder_as_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match="names a folder"):
        TrackingStore.locate(tmp_path)


def test_artifacts_lie_under_mlruns_and_pages_open_for_training_runs(project: Path) -> None:
    store = TrackingStore.locate(project)
    experiment_id = store.experiment_id("another one")
    experiment = store.client.get_experiment(experiment_id)
    assert experiment.artifact_location == (project / "mlruns" / "another_one").as_uri()
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    run_id = store.client.create_run(experiment_id).info.run_id
    address = f"http://127.0.0.1:5000/#/experiments/{experiment_id}/runs/{run_id}"
    assert ui_address(project, run_id) == f"{address}?workflowType=machine_learning"
    assert ui_command(project) == "mlflow ui"


def test_a_deleted_experiment_is_one_sentence(project: Path) -> None:
    store = TrackingStore.locate(project)
    store.client.delete_experiment(store.experiment_id("gone"))
    with pytest.raises(TrackingError, match="was deleted; restore it with"):
        store.experiment_id("gone")


@pytest.mark.slow
def test_many_processes_starting_on_a_new_store_at_once(tmp_path: Path) -> None:
    (tmp_path / "MLproject").write_text("name: bratsml\n")
    code = (
        "from bratsml.tracking.mlflow_tracker import open_run\n"
        "import sys\n"
        "names = dict(command='x', experiment_name='bratsml', run_name='r')\n"
        "t = open_run(**names, fingerprint=sys.argv[1])\n"
        "[t.log_metrics({'train/loss': 1.0}, step) for step in range(20)]\n"
        "t.finish('FINISHED')\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, f"f{number}"], cwd=tmp_path)
        for number in range(5)
    ]
    assert [process.wait(120) for process in processes] == [0] * 5
    store = TrackingStore.locate(tmp_path)
    runs = store.client.search_runs([store.experiment_id()])
    assert [run.info.status for run in runs] == ["FINISHED"] * 5
    for run in runs:
        assert len(store.client.get_metric_history(run.info.run_id, "train/loss")) == 20
