"""A copy of the project in a temporary folder, with an empty store, and commands run in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from end_to_end_support import environment

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``mlflow run .`` needs, without the store of the checkout."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(PROJECT / name, folder / name)
    shutil.copytree(PROJECT / "experiments", folder / "experiments")
    (folder / "bratsml").symlink_to(PROJECT / "bratsml")
    return folder


@pytest.fixture(scope="module")
def raw_cases(project: Path, run: Callable[..., subprocess.CompletedProcess[str]]) -> Path:
    """Six small phantoms as raw cases."""
    run("phantom", "--out", "raw", "--cases", "6", "--shape", "32,32,32")
    return project / "raw"


@pytest.fixture(scope="module")
def run(project: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``bratsml ...`` in the project's folder; fails loudly unless another code is expected."""

    def call(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "bratsml.cli", *arguments],
            cwd=project,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return call
