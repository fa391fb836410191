"""New cases by an ensemble file: which run is weighted how, and what is prepared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bratsml.data.recipes import NativeRecipe
from bratsml.ensembling.ensemble_file import EnsembleFile
from bratsml.errors import ConfigError
from bratsml.labels import get_scheme
from bratsml.models.output import OutputConfig
from bratsml.workflows import ensemble_predict as workflow
from bratsml.workflows.predict import predict

SHAPE = (3, 2, 2)
SCHEME = get_scheme("brats2023")
SAID = {"one": (("TC", 0.9), ("WT", 0.3)), "two": (("WT", 0.9), ("TC", 0.1))}
"""Run to its regions, in its own order, and the probability it gives everywhere."""
WEIGHTS = {"one": {"TC": 0.7, "WT": 0.4}, "two": {"TC": 0.3, "WT": 0.6}}
MARGINS = {"one": 0, "two": 0}


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stand-ins for the networks of two runs; lists the margins with which cases are prepared."""
    margins: list[int] = []
    meta = SimpleNamespace(original_shape=SHAPE, affine="affine")

    def run(name: str) -> Any:
        regions = tuple(region for region, _ in SAID[name])
        recipe = NativeRecipe(margin_voxels=MARGINS[name])
        experiment = SimpleNamespace(data=SimpleNamespace(recipe=recipe))
        output = OutputConfig(regions=regions).build(SCHEME)
        return SimpleNamespace(name=name, output=output, experiment=experiment, scheme=SCHEME)

    def prepare(case: Any, recipe: NativeRecipe, scheme: Any, with_label: bool) -> Any:
        margins.append(recipe.margin_voxels)
        return SimpleNamespace(image=np.zeros((4, *SHAPE)), meta=meta)

    def mean(models: Any, image: np.ndarray, meta: Any) -> np.ndarray:
        return np.stack([np.full(SHAPE, p, dtype=np.float32) for _, p in SAID[models.name]])

    monkeypatch.setattr(workflow, "trained_run", run)
    monkeypatch.setattr(workflow, "prepare_case", prepare)
    monkeypatch.setattr(workflow, "fold_mean", mean)
    return margins


def write(folder: Path, **changes: Any) -> str:
    members = [{"run": name, "name": name, "weights": WEIGHTS[name]} for name in ("one", "two")]
    tree = {"combine": "fitted", "label_scheme": "brats2023", "regions": ["TC", "WT"]}
    file = EnsembleFile.model_validate(tree | {"members": members} | changes)
    path = folder / "ensemble.yaml"
    path.write_text(file.text("made by hand"))
    return str(path)


def test_each_region_by_its_own_weights(prepared: list[int], tmp_path: Path) -> None:
    ensemble = workflow.TrainedEnsemble.load(write(tmp_path))
    case: Any = None
    meta, said = ensemble._together(case)
    # TC: .7 * .9 + .3 * .1; WT: .4 * .3 + .6 * .9
    assert np.unique(said[0]).tolist() == pytest.approx([0.66])
    assert np.unique(said[1]).tolist() == pytest.approx([0.66])
    label_map, meta = ensemble.segment(case)
    assert np.unique(label_map).tolist() == [1]  # tumour core without enhancing tumour
    assert meta.affine == "affine"


def test_the_mean_of_probabilities_and_the_steps_of_the_file(
    prepared: list[int], tmp_path: Path
) -> None:
    case: Any = None
    equal = workflow.TrainedEnsemble.load(write(tmp_path, combine="probabilities"))
    assert np.unique(equal._together(case)[1][0]).tolist() == pytest.approx([0.5])
    assert np.unique(equal.segment(case)[0]).tolist() == [2]  # .5 is not above one half
    steps = [{"kind": "drop_if_small", "region": "WT", "voxels": 13}]
    emptied = workflow.TrainedEnsemble.load(write(tmp_path, postprocess=steps))
    assert not emptied.segment(case)[0].any()


def test_a_case_is_prepared_once_per_recipe(
    prepared: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case: Any = None
    workflow.TrainedEnsemble.load(write(tmp_path)).segment(case)
    assert prepared == [0]
    monkeypatch.setitem(MARGINS, "two", 4)
    workflow.TrainedEnsemble.load(write(tmp_path)).segment(case)
    assert prepared == [0, 0, 4]


def test_what_is_wrong_is_said_in_one_sentence(
    prepared: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml is not there; give an ensemble\.yaml"):
        workflow.TrainedEnsemble.load(str(tmp_path / "gone.yaml"))
    path = write(tmp_path)
    monkeypatch.setitem(SAID, "two", SAID["two"][:1])
    with pytest.raises(ConfigError, match="two does not predict region TC"):
        workflow.TrainedEnsemble.load(path)
    with pytest.raises(ConfigError, match="one of runs=ID"):
        predict(runs="one", checkpoint="", data="cases", out="x", ensemble=path)
