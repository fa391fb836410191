"""``missing-modalities`` on a small cross-validation."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from end_to_end_support import TINY

pytestmark = pytest.mark.slow
Run = Callable[..., "subprocess.CompletedProcess[str]"]

SETTINGS = (
    f"{TINY} loader.patch=[16,16,16] inference.window=[32,32,32] inference.overlap=0 "
    "inference.flips=[] loader.augment=[{kind: flip}, {kind: modality_dropout}]"
)


def run_id_in(output: str) -> str:
    found = re.search(r"run ([0-9a-f]{32})", output)
    assert found, output
    return found[1]


def artifact(project: Path, run_id: str, name: str) -> pd.DataFrame:
    store = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    folder = store.get_run(run_id).info.artifact_uri.removeprefix("file://")
    return pd.read_csv(Path(folder) / name)


def test_all_four_score_as_in_the_cross_validation(
    project: Path, run: Run, raw_cases: Path
) -> None:
    trained = run("cv", "--model", "unet", "--data", str(raw_cases), "--set", SETTINGS)
    cv_run = run_id_in(trained.stdout)
    done = run("missing-modalities", "--run", cv_run)
    assert "Dice WT loses most without" in done.stdout
    assert "no patch lacked a modality" not in done.stdout
    own = run_id_in(done.stdout)
    scores = artifact(project, own, "scores/missing_modalities.csv")
    whole = scores[scores["subset"] == "t1n+t1c+t2w+t2f"]
    logged = artifact(project, cv_run, "scores/out_of_fold.csv")
    both = whole.merge(logged, on=["case", "region"], validate="one_to_one")
    assert len(both) == len(whole) == len(logged)
    np.testing.assert_allclose(both["dice_x"], both["dice_y"], atol=1e-6)
    table = artifact(project, own, "missing_modalities.csv")
    assert len(table) == 15 * 3 * 2  # subsets, regions, metrics
    assert len(scores) == 15 * len(logged)
    alone = scores[scores["subset"] == "t2f"]
    assert not np.allclose(alone["prediction_ml"], whole["prediction_ml"])  # the network saw less
