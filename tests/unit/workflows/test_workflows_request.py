"""File, phantom profile and layers of changes, laid over each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from bratsml.config import Tree
from bratsml.errors import ConfigError
from bratsml.experiment import Experiment, load_experiment, phantom_profile
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
