"""``finetune`` from a small cross-validation, in this process: what moves, what is recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from end_to_end_support import TINY

from bratsml.config import build_config
from bratsml.data.extra import split_of
from bratsml.data.phantom import PhantomConfig, write_phantoms
from bratsml.errors import ConfigError
from bratsml.experiment import Experiment
from bratsml.tracking.tracker import NullTracker
from bratsml.workflows.cv import cross_validate
from bratsml.workflows.finetune import finetune
from bratsml.workflows.fold import FoldWork, run_fold
from bratsml.workflows.request import Request, prepare
from bratsml.workflows.start_weights import StartWeights

pytestmark = pytest.mark.slow

SETTINGS = (
    f"{TINY} train.epochs=1 train.profile.active=0 loader.samples_per_epoch=2 "
    "loader.patch=[16,16,16] inference.window=[32,32,32] inference.overlap=0 inference.flips=[] "
    "evaluation.keep_probabilities=false launcher.kind=inline"
)
DATA = Request(model="unet", data="raw", overrides=(SETTINGS,))


@pytest.fixture(scope="module")
def here(project: Path) -> Iterator[Path]:
    """The project's folder as the working folder, with data and nothing of MLflow's set."""
    before, environment = Path.cwd(), dict(os.environ)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.chdir(project)
    write_phantoms(Path("raw"), PhantomConfig(cases=6, shape=(32, 32, 32)))
    write_phantoms(
        Path("more"), PhantomConfig(cases=3, shape=(32, 32, 32), seed=5, layout="brats2023")
    )
    yield project
    os.chdir(before)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="module")
def cv(here: Path) -> str:
    """Id of the run that fine-tuning starts from."""
    return cross_validate(DATA)


@pytest.fixture(scope="module")
def store(here: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{here / 'mlflow.db'}")


def folds_of(store: mlflow.MlflowClient, run_id: str) -> dict[str, mlflow.entities.Run]:
    experiment = store.get_run(run_id).info.experiment_id
    found = store.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    return {run.data.params["fold"]: run for run in found}


def weights_in(project: Path, run_id: str, name: str) -> dict[str, torch.Tensor]:
    (folder,) = (project / "outputs").glob(f"*-{run_id[:8]}")
    return torch.load(folder / name, weights_only=True)["model"]


def test_a_fold_goes_on_from_the_fold_of_its_number(
    here: Path, cv: str, store: mlflow.MlflowClient
) -> None:
    request = Request(model="unet", data="raw", overrides=(SETTINGS,), extra="more")
    tuned = finetune(request, cv, fold="1", freeze_but_last="3")
    own = store.get_run(tuned)
    assert own.data.tags["bratsml.started_from"] == cv
    assert own.data.tags["bratsml.patients_seen_before"] == "none"
    assert own.data.params["transfer.source"] == folds_of(store, cv)["1"].info.run_id
    assert "mlflow.parentRunId" not in own.data.tags  # or it would be a fold of the source
    assert "start/dice/mean" in own.data.metrics

    artifacts = Path(own.info.artifact_uri.removeprefix("file://"))
    table = pd.read_csv(artifacts / "transfer" / "weights.csv")
    start = weights_in(here, cv, "fold_1/checkpoints/best.pt")
    end = weights_in(here, tuned, "checkpoints/last.pt")
    assert set(table["key"]) == set(start) == set(end)
    trained = set(table["key"][table["trained"]])
    assert 0 < len(trained) < len(start)
    assert {name for name in end if not torch.equal(end[name], start[name])} == trained

    extra = {path.name for path in Path("more").iterdir() if path.is_dir()}
    assert own.data.params["num_extra"] == str(len(extra)) == "3"
    for path in artifacts.rglob("*.csv"):
        assert not any(case in path.read_text() for case in extra), path.name

    assert finetune(request, cv, fold="1", freeze_but_last="3") == tuned


def test_a_resumed_fine_tuning_does_without_the_start_weights(here: Path, cv: str) -> None:
    """What it has learnt stays; the file may be gone by then."""
    tuned = finetune(DATA, cv, fold="0", freeze_but_last="3")
    (folder,) = (here / "outputs").glob(f"*-{tuned[:8]}")
    before = torch.load(folder / "checkpoints/last.pt", weights_only=True)
    experiment = build_config(Experiment, before["config"]["experiment"])
    store = prepare(DATA).store
    gone = StartWeights("gone.pt", experiment.transfer.start[0], "gone.pt", "gone.pt")
    work = FoldWork.build(experiment, store, split_of(store, experiment.split), 0, folder, gone)
    assert run_fold(work, NullTracker()).epochs_done == 1
    after = work.checkpoints.load_last()
    assert after is not None
    assert all(torch.equal(value, before["model"][name]) for name, value in after["model"].items())


def test_a_fold_that_saw_the_patients_is_refused(cv: str, store: mlflow.MlflowClient) -> None:
    source = folds_of(store, cv)["1"].info.run_id
    with pytest.raises(ConfigError, match=f"\\({source}\\) were trained on .*fold 0 is validated"):
        finetune(DATA, source)


def test_an_experiment_that_fine_tunes_needs_something_to_start_from(here: Path) -> None:
    request = Request(model="unet", data="raw", overrides=(SETTINGS, "transfer.reset_last=1"))
    with pytest.raises(ConfigError, match="finetune --checkpoint"):
        cross_validate(request)
    with pytest.raises(ConfigError, match="finetune needs checkpoint"):
        finetune(request, "")


def test_all_folds_start_as_a_cross_validation(cv: str, store: mlflow.MlflowClient) -> None:
    own = store.get_run(finetune(DATA, cv, reset_last="1"))
    assert own.data.tags["bratsml.started_from"] == cv
    assert "start/dice/mean" in own.data.metrics
    sources = folds_of(store, cv)
    for number, child in folds_of(store, own.info.run_id).items():
        assert child.data.params["transfer.source"] == sources[number].info.run_id
        assert int(child.data.params["transfer.keys_reset"]) > 0
    assert len(sources) == 2
