"""``ensemble --runs`` over two cross-validations that differ in all that may differ."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import nibabel
import numpy as np
import pandas as pd
import pytest
import yaml
from end_to_end_support import TINY
from typer.testing import CliRunner

from bratsml.cli import app

pytestmark = pytest.mark.slow
Call = Callable[..., str]

SETTINGS = (
    f"{TINY} inference.overlap=0 loader.augment=[] optim.lr=3e-2 launcher.kind=inline "
    "train.profile.active=0"
)
FIRST = f"{SETTINGS} loader.patch=[16,16,16] inference.window=[32,32,32]"
SECOND = (
    f"{SETTINGS} loader.patch=[24,24,24] inference.window=[32,32,32] seed=3 "
    "model.channels=[6,12] output.kind=classes output.regions=[WT,TC,ET] "
    "data.recipe.margin_voxels=3"
)


def run_id_in(output: str) -> str:
    found = re.search(r"run ([0-9a-f]{32})", output)
    assert found, output
    return found[1]


def artifacts(project: Path, run_id: str) -> Path:
    store = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    return Path(store.get_run(run_id).info.artifact_uri.removeprefix("file://"))


@pytest.fixture(scope="module")
def call(project: Path) -> Iterator[Call]:
    """``bratsml ...`` in this very process, which has loaded its libraries already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            patch.delenv(name)

        def run(*arguments: str) -> str:
            done = CliRunner().invoke(app, arguments, catch_exceptions=False)
            assert done.exit_code == 0, done.output
            return done.output

        yield run


@pytest.fixture(scope="module")
def cases(project: Path, call: Call) -> str:
    call("phantom", "--out", "raw", "--cases", "6", "--shape", "32,32,32")
    return "raw"


@pytest.fixture(scope="module")
def cv_runs(call: Call, cases: str) -> list[str]:
    options = ["--model", "unet", "--data", cases, "--set"]
    return [run_id_in(call("cv", *options, settings)) for settings in (FIRST, SECOND)]


@pytest.fixture(scope="module")
def ensemble(call: Call, cv_runs: list[str]) -> str:
    said = call("ensemble", "--runs", ",".join(cv_runs), "--combine", "fitted", "--test")
    assert "ensemble minus best single run" in said
    assert "one case decides nothing" in said
    return run_id_in(said)


def test_members_score_as_in_their_own_runs(
    project: Path, cv_runs: list[str], ensemble: str
) -> None:
    scores = pd.read_csv(artifacts(project, ensemble) / "scores/out_of_fold.csv")
    assert scores["model"].nunique() == 2 + 4
    for run_id in cv_runs:
        own = pd.read_csv(artifacts(project, run_id) / "scores/out_of_fold.csv")
        member = scores[scores["model"] == f"cv unet {run_id[:6]}"]
        both = member.merge(own, on=["case", "region"], validate="one_to_one")
        assert len(both) == len(own) == len(member)
        # of exclusive classes that were about equal, bytes may name another one
        close = {"atol": 0} if run_id == cv_runs[0] else {"atol": 0.02}
        np.testing.assert_allclose(both["dice_x"], both["dice_y"], **close)


def test_everything_is_in_one_run(project: Path, cv_runs: list[str], ensemble: str) -> None:
    store = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    found = store.get_run(ensemble)
    assert found.info.status == "FINISHED"
    assert found.data.params["ensemble.of"] == ",".join(cv_runs)
    for name in ("oof/dice/mean", "gain/dice/mean_low95", "test/dice/WT"):
        assert name in found.data.metrics, name
    folder = artifacts(project, ensemble)
    pareto = pd.read_csv(folder / "pareto.csv")
    assert pareto["num_models"].tolist() == [1, 1, 2]
    assert pareto["num_networks"].tolist() == [2, 2, 4]
    assert (pareto["seconds_per_case"] > 0).all()
    assert pareto["best_for_models"].any()
    gain = pd.read_csv(folder / "gain.csv")
    assert gain["combination"].nunique() == 4
    assert (folder / "ensemble.html").is_file()
    test = pd.read_csv(folder / "scores/test.csv")
    assert (test[test["model"] == "ensemble"]["dice_gain"] == 0).all()
    assert test["model"].nunique() == 6


def test_predict_takes_a_run_or_a_file_and_all_weight_on_one_is_that_one(
    project: Path, call: Call, cases: str, cv_runs: list[str], ensemble: str
) -> None:
    path = next((project / "outputs").glob(f"ensemble-{ensemble[:8]}/ensemble.yaml"))
    tree = yaml.safe_load(path.read_text())
    assert [member["run"] for member in tree["members"]] == cv_runs
    for member, weight in zip(tree["members"], (1, 0), strict=True):
        member["weights"] = dict.fromkeys(tree["regions"], weight)
    only_first = project / "only_first.yaml"
    only_first.write_text(yaml.safe_dump(tree))
    outs = {"fitted": ("--ensemble", ensemble), "one": ("--ensemble", only_first.name)}
    outs |= {"alone": ("--runs", cv_runs[0])}
    maps = {}
    for out, option in outs.items():
        call("predict", *option, "--data", cases, "--out", out)
        files = sorted((project / out).glob("*.nii.gz"))
        assert len(files) == 6
        maps[out] = [np.asarray(nibabel.load(file).dataobj) for file in files]
    same = [np.array_equal(a, b) for a, b in zip(maps["one"], maps["alone"], strict=True)]
    assert all(same)
    assert any(m.any() for m in maps["alone"])
    assert not all(np.array_equal(a, b) for a, b in zip(maps["fitted"], maps["one"], strict=True))
