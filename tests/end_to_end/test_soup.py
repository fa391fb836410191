"""``soup`` on a small cross-validation, from the kept checkpoints to a prediction."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from end_to_end_support import TINY

from bratsml.data.phantom import PhantomConfig, write_phantoms
from bratsml.errors import ConfigError
from bratsml.tracking.runs import best_checkpoint, find_run
from bratsml.training.checkpoint import load_checkpoint
from bratsml.workflows.cv import cross_validate
from bratsml.workflows.request import Request
from bratsml.workflows.soup import soup
from bratsml.workflows.trained import load_trained, members_of_runs

pytestmark = pytest.mark.slow

SETTINGS = (
    f"{TINY} loader.patch=[16,16,16] inference.window=[32,32,32] inference.overlap=0 "
    "inference.flips=[] loader.augment=[{kind: flip}] train.epochs=3 train.keep_checkpoints=2 "
    "model.norm=batch launcher.kind=inline optim.lr=0.01"
)


@pytest.fixture(scope="module")
def data(project: Path) -> Path:
    """Six small phantoms, in this process: a new one would take seconds to begin."""
    write_phantoms(project / "raw", PhantomConfig(cases=6, shape=(32, 32, 32)))
    return project / "raw"


@pytest.fixture(scope="module")
def cv_run(project: Path, data: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        return cross_validate(Request(model="unet", data=str(data), overrides=[SETTINGS]))


def make(**changes: str) -> str:
    nothing = {"data": "", "fold": "", "kind": "", "evaluations": ""}
    runs, files = changes.pop("run", ""), changes.pop("checkpoints", "")
    return soup(
        runs=[runs] if runs else [],
        checkpoints=files.split(",") if files else [],
        **{**nothing, **changes},
    )


def artifacts(project: Path, run_id: str) -> Path:
    store = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    return Path(store.get_run(run_id).info.artifact_uri.removeprefix("file://"))


def metrics_of(project: Path, run_id: str) -> dict[str, float]:
    store = mlflow.MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    return dict(store.get_run(run_id).data.metrics)


def contents(project: Path) -> dict[Path, str]:
    folders = (project / "outputs", project / "mlruns")
    paths = [path for folder in folders for path in sorted(folder.rglob("*.pt*"))]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_soup_of_every_fold_is_found_made_and_used(
    project: Path,
    cv_run: str,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    kept = sorted(project.glob("outputs/cv-*/fold_*/checkpoints/kept/*.pt"))
    assert len(kept) == 4
    monkeypatch.setattr("bratsml.workflows.soup.STATISTICS_BATCHES", 2)
    before = contents(project)
    own = make(run=cv_run, data=str(data), kind="learned", evaluations="2")
    after = contents(project)
    assert before.items() <= after.items()  # no checkpoint of the folds was touched
    assert "batch norms gathered their statistics anew" in capsys.readouterr().out
    record = json.loads((artifacts(project, own) / "soup.json").read_text())
    assert sorted(record) == ["fold_0", "fold_1"]
    for fold, made in record.items():
        assert made["kind"] == "learned"
        assert made["is_cross_fitted"]
        halves = [set(part["cases"]) for part in made["parts"]]
        assert not halves[0] & halves[1]
        assert len(halves[0] | halves[1]) == len(made["published"]["cases"])
        shares = {parent["epoch"]: parent["share"] for parent in made["parents"]}
        assert sum(shares.values()) == pytest.approx(1)
        parents = {
            epoch: load_checkpoint(path)["model"]
            for path in kept
            for epoch in shares
            if path.match(f"{fold}/checkpoints/kept/epoch_{epoch:05d}.pt")
        }
        assert len(parents) == 2
        weights = load_checkpoint(project / f"outputs/soup-{own[:8]}" / fold / "best.pt")["model"]
        for name, value in weights.items():
            if not value.is_floating_point():
                continue
            mean = sum(parents[epoch][name].double() * share for epoch, share in shares.items())
            is_mean = torch.allclose(value, mean.to(value.dtype), rtol=1e-6, atol=1e-9)
            assert is_mean is ("running_" not in name)  # those are gathered anew
    table = pd.read_csv(artifacts(project, own) / "scores/out_of_fold.csv")
    logged = pd.read_csv(artifacts(project, cv_run) / "scores/out_of_fold.csv")
    assert sorted(table["case"]) == sorted(logged["case"])
    assert {"soup/dice/mean", "gain/dice/mean_low95"} <= metrics_of(project, own).keys()
    assert (artifacts(project, own) / "soup.html").is_file()
    models = load_trained(members_of_runs([own], project))  # as predict and ensemble find them
    assert len(models.members) == 2
    for member, predictor in models.predictors():
        child = next(c for c in find_run(own, project).children if c.name == member.name)
        state = load_checkpoint(best_checkpoint(child, project))
        assert state["config"]["soup"]["kind"] == "learned"
        assert state["config"]["fold"] == int(child.params["fold"])
        for name, value in predictor.model.state_dict().items():
            assert torch.equal(value, state["model"][name])


def test_an_ingredient_alone_scores_as_its_training_said(
    project: Path, cv_run: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr("bratsml.workflows.soup.STATISTICS_BATCHES", 2)
    own = make(run=cv_run, data=str(data), fold="1")
    record = json.loads((artifacts(project, own) / "soup.json").read_text())
    assert list(record) == ["fold_1"]
    kept = sorted(project.glob("outputs/cv-*/fold_1/checkpoints/kept/*.pt"))
    said = {f"epoch {s['best']['epoch']}": s["best"]["score"] for s in map(load_checkpoint, kept)}
    assert record["fold_1"]["published"]["scores"] == pytest.approx(said)


def test_files_of_different_folds_are_not_called_unseen(
    project: Path,
    cv_run: str,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(project)
    files = sorted(map(str, project.glob("outputs/cv-*/fold_*/checkpoints/best.pt")))
    with pytest.raises(ConfigError, match="give data=FOLDER"):
        make(checkpoints=",".join(files))
    with pytest.raises(ConfigError, match="two or more"):
        make(checkpoints=files[0], data=str(data))
    monkeypatch.setattr("bratsml.workflows.soup.STATISTICS_BATCHES", 2)
    own = make(checkpoints=",".join(files), data=str(data), kind="uniform")
    assert "no validation case is unseen" in capsys.readouterr().out
    metrics = metrics_of(project, own)
    assert "seen/soup/dice/mean" in metrics
    assert not any(name.startswith(("soup/", "gain/")) for name in metrics)
    config = load_checkpoint(project / f"outputs/soup-{own[:8]}/soup/best.pt")["config"]
    assert "fold" not in config  # it would be that of one parent only
    assert len(config["soup"]["parents"]) == 2
