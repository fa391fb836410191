"""``prune`` on a small cross-validation, and training of what is left."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from end_to_end_support import TINY

from bratsml.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def run_id_in(output: str) -> str:
    found = re.search(r"run ([0-9a-f]{32})", output)
    assert found, output
    return found[1]


def test_pruned_networks_are_scored_kept_and_trained_on(
    project: Path, run: Run, raw_cases: Path
) -> None:
    settings = f"{TINY} loader.patch=[16,16,16] inference.window=[32,32,32] inference.overlap=0"
    trained = run("cv", "--model", "unet", "--data", str(raw_cases), "--set", settings)
    done = run("prune", "--run", run_id_in(trained.stdout), "--shares", "0.5", "--keep", "0.5")
    assert "50% of them taken" in done.stdout
    assert "costs most" in done.stdout
    pruned = run_id_in(done.stdout)
    store = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    names = {each.path for each in store.list_artifacts(pruned)}
    assert {"pruning.csv", "pruning.html", "sensitivity.csv", "sensitivity.html"} <= names
    kept = project / "outputs" / f"prune-{pruned[:8]}"
    tuned = run(
        "finetune", "--checkpoint", pruned, "--experiment", str(kept / "experiment.yaml"),
        "--data", str(raw_cases),
    )  # fmt: skip
    (after,) = (project / "outputs").glob(
        f"cv-*-{run_id_in(tuned.stdout)[:8]}/fold_0/checkpoints/best.pt"
    )
    before = load_checkpoint(kept / "fold_0" / "best.pt")["model"]
    weights = load_checkpoint(after)["model"]
    kernels = [name for name, value in before.items() if value.ndim == 5]
    assert all((weights[name][before[name] == 0] == 0).all() for name in kernels)
    assert any((weights[name] != before[name]).any() for name in kernels)


def test_shares_that_are_none_are_refused_before_anything(run: Run) -> None:
    assert "shares of the weights" in run("prune", "--shares", "2", code=1).stderr
