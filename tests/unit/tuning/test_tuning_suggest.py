"""The nearest settings that fit, against a hand-made oracle."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from bratsml.config import build_config
from bratsml.experiment import Experiment
from bratsml.tuning.memory import MemoryEstimate, Verdict
from bratsml.tuning.savings import Change, apply, patches
from bratsml.tuning.suggest import (
    Search,
    every_free_saving,
    is_longest,
    largest_patch,
    nearest,
)


def by_hand(experiment: Experiment) -> MemoryEstimate:
    """Weights 1 MB per channel of the first stage; activations 1 MB per 1000 voxels and patch.

    Halved by recomputing and by bf16, doubled by MONAI's own attention.
    """
    model = experiment.model
    width = float(getattr(model, "feature_size", 0) or model.channels[0])  # type: ignore[union-attr]
    activations = math.prod(experiment.loader.patch) / 1000 * experiment.loader.batch_size
    activations *= 0.5 if model.checkpointing else 1.0
    activations *= 1.0 if experiment.compute.precision == "32" else 0.5
    activations *= 2.0 if getattr(model, "attention", "") == "reference" else 1.0
    window = math.prod(experiment.window) / 1000 * experiment.inference.window_batch
    return MemoryEstimate(
        weights_mb=width,
        gradients_mb=width,
        optimizer_mb=2 * width,
        activations_mb=activations,
        temporary_mb=0.0,
        peak_mb=4 * width + activations,
        inference_peak_mb=3 * width + 0.1 * window,
        source="predicted",
    )


@dataclass
class Judge:
    budget_mb: float
    asked: list[Experiment] = field(default_factory=list)

    def __call__(self, experiment: Experiment) -> Verdict:
        self.asked.append(experiment)
        estimate = by_hand(experiment)
        peak = max(estimate.peak_mb, estimate.inference_peak_mb)
        return Verdict(peak <= self.budget_mb, estimate, "by hand")


def search(budget_mb: float, **sections: Mapping[str, Any]) -> Search:
    experiment = build_config(Experiment, {"name": "x", **sections})
    return Search(experiment, Judge(budget_mb), budget_mb)


SWIN: dict[str, dict[str, Any]] = {
    "model": {"kind": "swinunetr", "feature_size": 48, "attention": "reference"},
    "loader": {"patch": [128, 128, 128], "batch_size": 2},
    "compute": {"precision": "32"},
}
# 192 MB of parameters and 2 x 2097 x 2 = 8389 MB of activations


def texts(found: Search) -> list[str]:
    return [suggestion.text for suggestion in nearest(found)]


def test_what_fits_needs_no_suggestion() -> None:
    found = search(8581, **SWIN)
    assert nearest(found) == []
    assert found.num_predictions == 1


def test_single_savings_come_in_order_of_harm() -> None:
    assert texts(search(4400, **SWIN)) == [
        "model.checkpointing=true",  # 192 + 4194
        "model.attention=sdpa",
        "loader.batch_size=1 train.accumulate=2",
        "compute.precision=bf16",
        "loader.patch=[96,96,96]",  # 192 + 3539
    ]  # no width saves enough


def test_harmless_savings_add_up_before_any_harmful_one() -> None:
    # all three: 192 + 1049; two of them: 192 + 2097
    found = texts(search(2300, **SWIN))
    assert found[0] == "model.checkpointing=true model.attention=sdpa"
    together = texts(search(1300, **SWIN))
    assert together[0] == (
        "model.checkpointing=true model.attention=sdpa loader.batch_size=1 train.accumulate=2"
    )


def test_harmful_savings_stand_on_all_harmless_ones() -> None:
    free = "model.checkpointing=true model.attention=sdpa loader.batch_size=1 train.accumulate=2"
    assert texts(search(800, **SWIN)) == [
        f"{free} compute.precision=bf16",  # 192 + 524
        f"{free} loader.patch=[96,96,96]",  # 192 + 442
    ]


def test_several_harmful_savings_when_one_is_not_enough() -> None:
    # free savings and bf16 at 64 cubed: 192 + 66; the smallest patch
    (text,) = texts(search(260, **SWIN))
    assert text.endswith("compute.precision=bf16 loader.patch=[64,64,64]")


def test_a_network_whose_parameters_alone_do_not_fit_is_narrowed_first() -> None:
    wide = {**SWIN, "model": {**SWIN["model"], "feature_size": 96}}  # 384 MB of parameters
    free = "model.checkpointing=true model.attention=sdpa loader.batch_size=1 train.accumulate=2"
    # those of 84 would fit, 336 MB, but not with the 66 MB that the smallest patch leaves
    assert texts(search(380, **wide)) == [
        f"model.feature_size=72 {free} compute.precision=bf16 loader.patch=[64,64,64]"
    ]


def test_a_narrower_network_is_the_last_choice() -> None:
    small = {"kind": "swinunetr", "feature_size": 48}
    sections: dict[str, Any] = {"model": small, "loader": {"patch": [32, 32, 64]}}  # 192 + 66
    assert texts(search(211, **sections)) == [
        "model.checkpointing=true compute.precision=bf16",  # 192 + 16
        "model.checkpointing=true model.feature_size=36",  # 144 + 33
    ]
    # parameters of 48 do not fit into 170; those of 36 do, with 33 MB of activations not
    assert texts(search(170, **sections)) == [
        "model.feature_size=36 model.checkpointing=true compute.precision=bf16",
        "model.feature_size=24 model.checkpointing=true",
    ]


def test_nothing_fits() -> None:
    assert texts(search(1, **SWIN)) == []


def test_inference_that_does_not_fit_has_fewer_windows() -> None:
    sections = {
        **SWIN,
        "loader": {"patch": [64, 64, 64]},
        "inference": {"window": [128, 128, 128], "window_batch": 64},
    }
    # 192 + 524 to train; a window is 210 MB beside 144
    found = search(1000, **sections)
    assert texts(found) == ["inference.window_batch=4"]
    assert found.num_predictions < 10
    smaller = texts(search(860, **{**sections, "inference": {"window": [224] * 3}}))
    assert smaller == ["inference.window=[192,192,192]"]  # 144 + 708; at 224: 144 + 1124


def test_training_and_inference_are_both_mended() -> None:
    sections = {**SWIN, "inference": {"window_batch": 40}}
    found = texts(search(4400, **sections))  # inference: 144 + 40 x 210
    assert found[0] == "inference.window_batch=20 model.checkpointing=true"


@pytest.mark.parametrize("budget", [100, 200, 300, 600, 1000, 2000, 5000, 20000])
def test_the_largest_patch_is_the_one_found_by_looking_at_all(budget: float) -> None:
    found = search(budget, model={"kind": "unet"}, loader={"patch": [64, 96, 48]})
    fitting = [
        c for c in patches(found.experiment) if Judge(budget)(apply(found.experiment, c)).fits
    ]
    largest = largest_patch(found)
    assert (largest.change if largest else None) == (fitting[-1] if fitting else None)
    assert found.num_predictions <= 7
    if largest is not None:
        assert is_longest(found, largest) == (largest.change == patches(found.experiment)[-1])


@pytest.mark.parametrize("guess", [None, 0, 3, 9, 50])
def test_bisection_finds_the_first_that_fits(guess: int | None) -> None:
    def enough(change: Change) -> bool:
        return bool(change["place"] >= fitting)

    options = [{"place": place} for place in range(10)]
    for fitting in range(11):
        found = search(1000)
        change = found.first_fit(options, {}, guess=guess, enough=enough)
        assert change == ({"place": fitting} if fitting < 10 else None)


def test_a_right_guess_takes_two_looks() -> None:
    looks: list[int] = []

    def enough(change: Change) -> bool:
        looks.append(change["place"])
        return bool(change["place"] >= 7)

    options = [{"place": place} for place in range(100)]
    assert search(1000).first_fit(options, {}, guess=7, enough=enough) == {"place": 7}
    assert looks == [7, 6]


def test_free_savings_leave_the_batch_alone() -> None:
    assert every_free_saving(search(100, **SWIN)) == {
        "model.checkpointing": True,
        "model.attention": "sdpa",
    }


def test_no_prediction_is_made_twice() -> None:
    found = search(800, **SWIN)
    nearest(found)
    largest_patch(found)
    largest_patch(found, every_free_saving(found))
    asked = found.judge.asked  # type: ignore[attr-defined]
    assert len(asked) == found.num_predictions <= 25
    assert not any(a == b for a, b in itertools.combinations(asked, 2))
