"""File, phantom profile and layers of changes, laid over each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bratsml.config import Tree
from bratsml.errors import ConfigError, TrackingError
from bratsml.experiment import Experiment, load_experiment, phantom_profile
from bratsml.tracking.runs import RecordedRun
from bratsml.workflows import request
from bratsml.workflows.request import Request, lay_over, typed_layers

PROJECT = Path(__file__).parents[3]
UNET = PROJECT / "experiments" / "unet.yaml"
CHANNELS: Tree = {"model": {"channels": [4, 8], "strides": [2]}}


def laid(*layers: Tree, phantom: bool = False) -> Experiment:
    return lay_over(UNET, layers, PROJECT, phantom=phantom)


def test_without_changes_it_is_the_file() -> None:
    assert laid() == load_experiment(UNET)
    assert laid(phantom=True) == load_experiment(UNET, phantom_profile(PROJECT, "unet"))


def test_settings_of_the_other_kind_are_left_behind() -> None:
    switched = laid(CHANNELS, {"model": {"kind": "mednext"}})
    assert switched == laid({"model": {"kind": "mednext"}})
    assert switched.model.kind == "mednext"


def test_settings_of_the_kind_that_is_named_again_stay() -> None:
    same = laid(CHANNELS, {"model": {"kind": "unet"}})
    assert same == laid(CHANNELS)
    assert same.model.tree()["channels"] == [4, 8]


@pytest.mark.parametrize("more", [{}, CHANNELS])
def test_a_switched_kind_is_shrunk_to_the_phantoms_by_its_own_profile(more: Tree) -> None:
    small = laid(more, {"model": {"kind": "mednext"}}, phantom=True)
    assert small.model.tree()["width"] == 8  # of the profile; MedNeXt-S has 32
    assert small.optim.lr == 5e-3


def test_changes_win_over_the_phantom_profile() -> None:
    changed = laid({"optim": {"lr": 0.02}, "model": {"kind": "mednext", "width": 4}}, phantom=True)
    assert (changed.optim.lr, changed.optim.kind) == (0.02, "adamw")
    assert changed.model.tree()["width"] == 4


def test_a_setting_that_the_kind_has_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unet\.yaml: unknown setting 'model\.kernel'"):
        laid({"model": {"kernel": 5}})


def test_each_override_is_a_layer_over_those_before() -> None:
    request = Request(epochs="7", overrides=["train.epochs=9 seed=1", "seed=2"])
    layers = typed_layers(request, {"split": {"folds": 3}})
    assert layers == [
        {"split": {"folds": 3}},
        {"train": {"epochs": 7}},
        {"train": {"epochs": 9}, "seed": 1},
        {"seed": 2},
    ]
    assert laid(*layers).train.epochs == 9


def test_the_data_of_a_soup_lies_where_its_parents_found_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(run_id: str, **params: str) -> RecordedRun:
        return RecordedRun(run_id, "r", "FINISHED", "1", "", params, {})

    trained = run("a" * 32)
    record = tmp_path / "outputs" / f"cv-unet-{'a' * 8}" / "fold_0" / "job.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"store": str(tmp_path / "store")}))
    (tmp_path / "store").mkdir()

    def find_run(run_id: str, root: Path) -> RecordedRun:
        if run_id != trained.run_id:
            raise TrackingError(f"no run {run_id}")
        return trained

    monkeypatch.setattr(request, "find_run", find_run)
    monkeypatch.setattr(request.Store, "open", lambda path: path)
    for source in (
        trained,
        run("b" * 32, **{"soup.of": f"{'d' * 32},{trained.run_id}"}),
        run("c" * 32, **{"prune.of": trained.run_id}),
    ):
        assert request._recorded_store(source, tmp_path) == tmp_path / "store"
    with pytest.raises(ConfigError, match="no longer known; give data=FOLDER"):
        request._recorded_store(run("e" * 32, **{"soup.of": "files"}), tmp_path)
