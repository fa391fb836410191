"""One SQLite store made for the session and copied for each test: making one takes seconds."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from bratsml.tracking.store import DATABASE_FILE, TrackingStore


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def made_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        TrackingStore.locate(folder).experiment_id()
    return folder


def copy_store(made_store: Path, folder: Path) -> Path:
    (folder / "mlruns").mkdir(parents=True)
    (folder / "MLproject").write_text("name: bratsml\n")
    shutil.copyfile(made_store / DATABASE_FILE, folder / DATABASE_FILE)
    with sqlite3.connect(folder / DATABASE_FILE) as database:
        database.execute(
            "update experiments set artifact_location = ? where name = 'bratsml'",
            ((folder / "mlruns" / "bratsml").as_uri(),),
        )
    database.close()
    return folder


@pytest.fixture
def project(made_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with an empty store of its own; also the working folder."""
    folder = copy_store(made_store, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def _one_project(made_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_store(made_store, tmp_path_factory.mktemp("shared") / "project")


@pytest.fixture
def shared_project(_one_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder that tests share (opening a store costs most of a test's time)."""
    monkeypatch.chdir(_one_project)
    return _one_project


@pytest.fixture
def store(project: Path) -> TrackingStore:
    return TrackingStore.locate(project)
