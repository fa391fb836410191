"""The plugin in small: when it acts, and that it stays out of the way. The real command is in
``tests/end_to_end/test_mlflow_run.py``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bratsml.tracking import project_backend
from bratsml.tracking.project_backend import (
    CurrentEnvironmentProvider,
    backend_class,
    has_conda,
    project_to_run,
)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    (tmp_path / "MLproject").write_text("name: bratsml\nentry_points: {cv: {command: 'true'}}\n")
    return tmp_path


@pytest.fixture
def no_conda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CONDA_EXE", raising=False)
    monkeypatch.delenv("MLFLOW_CONDA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_only_mlflow_run_on_this_project_is_meant(
    ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project_to_run(["/x/bin/mlflow", "run", str(ours), "-e", "cv"]) == ours
    monkeypatch.chdir(ours)
    assert project_to_run(["mlflow", "run", ".", "-e", "cv", "-P", "model=unet"]) == ours
    assert project_to_run(["mlflow", "run", "-e", "cv", f"file://{ours}"]) == ours
    assert project_to_run(["mlflow", "ui"]) is None
    assert project_to_run(["mlflow", "run", "git@example.org:other.git"]) is None
    assert project_to_run(["pytest", "run", "."]) is None
    assert project_to_run([]) is None
    (ours / "MLproject").write_text("name: other\n")
    assert project_to_run(["mlflow", "run", "."]) is None


def test_elsewhere_the_provider_does_not_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["python", "notebook.py"])
    assert not CurrentEnvironmentProvider().in_context()


def test_an_error_inside_leaves_everything_to_mlflow_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: list[str]) -> None:
        raise RuntimeError("internals changed")

    monkeypatch.setattr(project_backend, "project_to_run", broken)
    assert not CurrentEnvironmentProvider().in_context()
    assert "--env-manager local" in capsys.readouterr().err


def test_an_experiment_flag_without_conda_gets_the_fallback_sentence(
    ours: Path,
    no_conda: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["mlflow", "run", str(ours), "--experiment-name=x"]
    monkeypatch.setattr(sys, "argv", arguments)
    CurrentEnvironmentProvider()
    assert "(--experiment-name was given); run 'mlflow run" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", [*arguments, "--env-manager", "local"])
    CurrentEnvironmentProvider()
    assert capsys.readouterr().err == ""


class FakeBackend:
    """Stands for MLflow's local backend."""

    calls: list[dict[str, Any]] = []

    def run(self, *arguments: Any) -> str:
        self.calls.append({"project": arguments[0], "config": dict(arguments[4])})
        return "submitted"


def test_other_projects_run_as_ever(ours: Path, tmp_path: Path, no_conda: None) -> None:
    FakeBackend.calls.clear()
    other = tmp_path / "other"
    other.mkdir()
    config = {"ENV_MANAGER": None}
    backend = backend_class(FakeBackend, ours)()
    assert backend.run(str(other), "main", {}, None, config, "", "0") == "submitted"
    assert FakeBackend.calls == [{"project": str(other), "config": {"ENV_MANAGER": None}}]


def test_an_unexpected_error_falls_back_to_mlflows_own_way(
    ours: Path,
    no_conda: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: Any) -> str:
        raise RuntimeError("internals changed")

    monkeypatch.setattr(project_backend, "_prepare", broken)
    backend = backend_class(FakeBackend, ours)()
    assert backend.run(str(ours), "cv", {}, None, {"ENV_MANAGER": None}, "", "0") == "submitted"
    assert "(RuntimeError); run 'mlflow run . --env-manager local" in capsys.readouterr().err


def test_conda_is_looked_for_where_mlflow_looks(
    tmp_path: Path, no_conda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not has_conda()
    conda = tmp_path / "bin" / "conda"
    conda.parent.mkdir()
    conda.write_text("#!/bin/sh\n")
    conda.chmod(0o755)
    for name, value in (
        ("PATH", conda.parent),
        ("CONDA_EXE", conda),
        ("MLFLOW_CONDA_HOME", tmp_path),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, str(value))
            assert has_conda()


def test_the_plugin_is_light_and_known_to_mlflow() -> None:
    code = (
        "import sys, importlib.metadata as m\n"
        "import bratsml.tracking.project_backend\n"
        "heavy = {'torch', 'mlflow', 'numpy', 'pandas', 'pydantic', 'psutil'} & set(sys.modules)\n"
        "names = [e.value for e in m.entry_points(group='mlflow.default_experiment_provider')]\n"
        "print(sorted(heavy), names)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = "bratsml.tracking.project_backend:CurrentEnvironmentProvider"
    assert done.stdout.strip() == f"[] ['{expected}']"
