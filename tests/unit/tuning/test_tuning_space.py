"""Spaces: what they hold, what they refuse, what a point becomes."""

from __future__ import annotations

import pytest

from bratsml.config import with_overrides
from bratsml.errors import ConfigError
from bratsml.experiment import Experiment
from bratsml.tuning.space import Choice, LogUniform, Space, Uniform, WholeNumber

BASE = Experiment()
SWIN = with_overrides(
    BASE, {"model": {"kind": "swinunetr"}, "loader": {"patch": [64, 64, 64]}, "optim": {"lr": 1e-3}}
)


def space(**dimensions) -> Space:
    return Space(dimensions={name.replace("__", "."): d for name, d in dimensions.items()})


def test_a_point_becomes_overrides_of_the_base() -> None:
    the_space = Space(
        dimensions={
            "optim.lr": LogUniform(low=1e-5, high=1e-1),
            "optim.betas[1]": Uniform(low=0.95, high=0.9999),
            "loader.patch": Choice(values=([16, 16, 16], [32, 32, 32])),
        }
    )
    point = {"optim.lr": 0.01, "optim.betas[1]": 0.97, "loader.patch": "[32, 32, 32]"}
    experiment = the_space.apply(point, BASE)
    assert experiment.optim.lr == 0.01
    assert experiment.optim.betas == (0.9, 0.97)  # the first one stays the base's
    assert experiment.loader.patch == (32, 32, 32)


def test_the_base_is_found_again_in_the_space() -> None:
    the_space = space(optim__lr=LogUniform(low=1e-5, high=1e-1))
    point = the_space.point_of(BASE)
    assert the_space.apply(point, BASE) == BASE


def test_a_default_outside_the_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"default optim.lr=0.001 lies outside.*0.05 to 0.1"):
        space(optim__lr=LogUniform(low=0.05, high=0.1)).point_of(BASE)


@pytest.mark.parametrize(
    ("dimensions", "said"),
    [
        ({"model__feature_size": Choice(values=(12, 20))}, "feature_size=20.*multiple of 12"),
        (
            {"loader__patch": Choice(values=([64] * 3, [48] * 3))},
            r"\[48, 48, 48\].*multiples of 32",
        ),
        ({"optim__lr": Uniform(low=0.0, high=1.0)}, "optim.lr=0.0"),
        ({"optim__learning_rate": Uniform(low=0.1, high=1.0)}, "base experiment does not have"),
        ({"split__folds": WholeNumber(low=2, high=5)}, "cannot vary split.folds"),
        ({"optim__betas[2]": Uniform(low=0.1, high=0.9)}, r"optim.betas\[2\]"),
    ],
)
def test_a_space_with_a_point_that_cannot_be_is_refused(dimensions, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        space(**dimensions).check(SWIN)


def test_choices_are_checked_in_every_combination() -> None:
    # each alone suits the base, together they do not: a UNet of three halvings needs sides of 8
    base = with_overrides(
        BASE, {"model": {"channels": [4, 8], "strides": [2]}, "loader": {"patch": [12, 12, 12]}}
    )
    both = {
        "model.channels": Choice(values=([4, 8], [4, 8, 8, 8])),
        "model.strides": Choice(values=([2], [2, 2, 2])),
    }
    with pytest.raises(ConfigError, match="not valid"):
        Space(dimensions=both).check(base)


def test_the_thriftiest_point_is_small_and_recomputes() -> None:
    the_space = Space(
        dimensions={
            "model.feature_size": Choice(values=(48, 12, 24)),
            "model.checkpointing": Choice(values=(False, True)),
            "loader.patch": Choice(values=([96, 96, 96], [64, 64, 64])),
            "optim.lr": LogUniform(low=1e-5, high=1e-1),
        }
    )
    assert the_space.thriftiest() == {
        "model.feature_size": 12,
        "model.checkpointing": True,
        "loader.patch": "[64, 64, 64]",
    }


def test_a_range_upside_down_is_refused() -> None:
    with pytest.raises(ValueError, match="above high"):
        Uniform(low=2.0, high=1.0)
