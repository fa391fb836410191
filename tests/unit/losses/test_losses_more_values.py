"""Values worked out by hand, and against MONAI's, of the losses beside Dice and cross-entropy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from monai.losses import FocalLoss, GeneralizedDiceLoss, HausdorffDTLoss, TverskyLoss
from pydantic import ValidationError

from bratsml.losses.boundary import Boundary
from bratsml.losses.distance import _by_minima, _by_scipy
from bratsml.losses.registry import (
    BoundaryConfig,
    CrossEntropyConfig,
    DiceConfig,
    FocalConfig,
    FocalTverskyConfig,
    GeneralizedDiceConfig,
    SumConfig,
    TverskyConfig,
)
from bratsml.losses.weighted_sum import set_epoch

LN3 = math.log(3)  # the logit of 3/4


def voxels(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, len(values), 1, 1)


def channels(*parts: torch.Tensor) -> torch.Tensor:
    return torch.cat(parts, dim=1)


def random_pair(exclusive: bool) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 5, 4, 6), generator=rng)
    if exclusive:
        return logits, torch.randint(0, 3, (2, 1, 5, 4, 6), generator=rng)
    return logits, (torch.rand(logits.shape, generator=rng) > 0.7).float()


def monai_outputs(exclusive: bool) -> dict[str, Any]:
    return {
        "sigmoid": not exclusive,
        "softmax": exclusive,
        "to_onehot_y": exclusive,
        "include_background": not exclusive,
    }


def test_generalized_dice_by_hand() -> None:
    # first region: probabilities 1/2 and 3/4, target 1 and 0; second: 1/2 twice, target 1 twice.
    # volumes 1 and 2, weights 1 and 1/4; overlaps 1/2 and 1, sums 9/4 and 3
    logits = channels(voxels(0, LN3), voxels(0, 0))
    target = channels(voxels(1, 0), voxels(1, 1))
    value = GeneralizedDiceConfig(smooth=1e-9).build(exclusive=False)(logits, target)
    assert value.item() == pytest.approx(1 - 2 * 0.75 / 3, abs=1e-6)
    simple = GeneralizedDiceConfig(smooth=1e-9, weighting="simple").build(exclusive=False)
    assert simple(logits, target).item() == pytest.approx(1 - 2 * 1 / 3.75, abs=1e-6)


def test_generalized_dice_of_a_large_region_still_moves() -> None:
    # 30 cubed voxels weigh 1.4e-9 each: undivided, the smoothing hides them
    logits, target = torch.full((1, 1, 30, 30, 30), -LN3), torch.ones((1, 1, 30, 30, 30))
    ours = GeneralizedDiceConfig().build(exclusive=False)(logits, target)
    assert ours.item() == pytest.approx(1 - 2 * 0.25 / 1.25, abs=1e-5)
    assert GeneralizedDiceLoss(sigmoid=True)(logits, target).item() < 0.5


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("weighting", ["square", "simple", "uniform"])
def test_generalized_dice_agrees_with_monai(exclusive: bool, batch: bool, weighting: Any) -> None:
    logits, target = random_pair(exclusive)
    tiny = {"smooth_nr": 1e-9, "smooth_dr": 1e-9}
    peer = GeneralizedDiceLoss(w_type=weighting, batch=batch, **tiny, **monai_outputs(exclusive))
    config = GeneralizedDiceConfig(weighting=weighting, batch=batch, smooth=1e-9)
    value = config.build(exclusive)(logits, target)
    assert value.item() == pytest.approx(peer(logits, target).item(), abs=1e-5)


def test_focal_by_hand() -> None:
    # truths 1 and 0 have 1/2 and 1/4: (1/2)**2 ln 2 and (3/4)**2 ln 4
    logits, target = voxels(0, LN3), voxels(1, 0)
    first, second = math.log(2) / 4, 9 / 16 * math.log(4)
    value = FocalConfig().build(exclusive=False)(logits, target)
    assert value.item() == pytest.approx((first + second) / 2, abs=1e-6)
    weighted = FocalConfig(alpha=0.75).build(exclusive=False)(logits, target)
    assert weighted.item() == pytest.approx((0.75 * first + 0.25 * second) / 2, abs=1e-6)


@pytest.mark.parametrize("exclusive", [False, True])
def test_focal_without_gamma_is_the_cross_entropy(exclusive: bool) -> None:
    logits, target = random_pair(exclusive)
    plain = CrossEntropyConfig().build(exclusive)(logits, target)
    assert FocalConfig(gamma=0).build(exclusive)(logits, target).item() == pytest.approx(
        plain.item(), abs=1e-6
    )


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("exclusive", [False, True])
def test_focal_agrees_with_monai(exclusive: bool, alpha: float | None) -> None:
    logits, target = random_pair(exclusive)
    peer = FocalLoss(use_softmax=exclusive, to_onehot_y=exclusive, alpha=alpha)(logits, target)
    value = FocalConfig(alpha=alpha).build(exclusive)(logits, target).item()
    # MONAI averages over the zeros of the one-hot target, too
    assert value == pytest.approx(peer.item() * (3 if exclusive else 1), abs=1e-6)


def test_tversky_by_hand() -> None:
    # hits 1/2, false positives 3/4, false negatives 1/2: .5 / (.5 + .4 * .75 + .6 * .5)
    logits, target = voxels(0, LN3), voxels(1, 0)
    value = TverskyConfig(smooth=1e-9).build(exclusive=False)(logits, target)
    assert value.item() == pytest.approx(1 - 0.5 / 1.1, abs=1e-6)
    focal = FocalTverskyConfig(smooth=1e-9).build(exclusive=False)(logits, target)
    assert focal.item() == pytest.approx((1 - 0.5 / 1.1) ** 0.75, abs=1e-6)


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("batch", [False, True])
def test_tversky_agrees_with_monai(exclusive: bool, batch: bool) -> None:
    logits, target = random_pair(exclusive)
    outputs = monai_outputs(exclusive)
    peer = TverskyLoss(alpha=0.4, beta=0.6, batch=batch, reduction="none", **outputs)
    each = peer(logits, target)
    value = TverskyConfig(batch=batch).build(exclusive)(logits, target)
    assert value.item() == pytest.approx(each.mean().item(), abs=1e-5)
    focal = FocalTverskyConfig(batch=batch).build(exclusive)(logits, target)
    assert focal.item() == pytest.approx((each**0.75).mean().item(), abs=1e-5)


def test_even_tversky_is_dice() -> None:
    logits, target = random_pair(exclusive=False)
    even = TverskyConfig(alpha=0.5, beta=0.5, smooth=1e-9).build(exclusive=False)
    dice = DiceConfig(smooth=1e-9).build(exclusive=False)
    assert even(logits, target).item() == pytest.approx(dice(logits, target).item(), abs=1e-6)


def test_boundary_by_hand() -> None:
    # five voxels in a row, the first two are tumour: 2 and 1 from the outside, then 1, 2, 3 from it
    logits, target = voxels(0, 0, 0, 0, LN3), voxels(1, 1, 0, 0, 0)
    surface = BoundaryConfig().build(exclusive=False)(logits, target)
    assert surface.item() == pytest.approx((0.5 * (2 + 1 + 1 + 2) + 0.75 * 3) / 5, abs=1e-6)
    # predicted is the last alone: 4, 3, 2, 1 from it, 1 from its outside
    hausdorff = BoundaryConfig(distance="hausdorff").build(exclusive=False)(logits, target)
    near = 0.25 * ((4 + 16) + (1 + 9) + (1 + 4) + (4 + 1))
    assert hausdorff.item() == pytest.approx((near + 9 / 16 * (9 + 1)) / 5, abs=1e-5)


@pytest.mark.parametrize("exclusive", [False, True])
def test_hausdorff_agrees_with_monai(exclusive: bool) -> None:
    logits, target = random_pair(exclusive)
    peer = HausdorffDTLoss(**monai_outputs(exclusive))(logits, target)
    value = Boundary(exclusive, "hausdorff", 2.0)(logits, target)
    assert value.item() == pytest.approx(peer.item(), rel=1e-5)


def test_a_region_that_is_not_there_counts_every_voxel_once() -> None:
    value = BoundaryConfig().build(exclusive=False)(voxels(0, LN3), voxels(0, 0))
    assert value.item() == pytest.approx((0.5 + 0.75) / 2, abs=1e-6)


def test_both_ways_to_measure_distance_agree() -> None:
    rng = torch.Generator().manual_seed(1)
    mask = torch.rand((2, 2, 7, 5, 6), generator=rng) > 0.97
    mask[1, 1] = False
    assert torch.allclose(_by_minima(mask), _by_scipy(mask), atol=1e-5)
    assert _by_scipy(mask)[1, 1].isinf().all()


def test_a_ramp_moves_the_weight_of_a_term() -> None:
    ramp = {"first_weight": 0.0, "weight": 2.0, "ramp_start": 1, "ramp_epochs": 4}
    terms = ({"loss": DiceConfig()}, {"loss": BoundaryConfig(), **ramp})
    loss = SumConfig(terms=terms).build(exclusive=False)
    logits, target = random_pair(exclusive=False)
    dice = DiceConfig().build(exclusive=False)(logits, target).item()
    boundary = BoundaryConfig().build(exclusive=False)(logits, target).item()
    for epoch, weight in [(0, 0), (1, 0), (2, 0.5), (3.5, 1.25), (5, 2), (9, 2)]:
        set_epoch(torch.nn.Sequential(loss), epoch)  # as a part of another module, too
        assert loss(logits, target).item() == pytest.approx(dice + weight * boundary, abs=1e-5)


def test_outside_training_a_sum_has_its_last_weights() -> None:
    terms = ({"loss": DiceConfig(), "weight": 3.0, "first_weight": 1.0, "ramp_epochs": 5},)
    logits, target = random_pair(exclusive=False)
    dice = DiceConfig().build(exclusive=False)(logits, target).item()
    loss = SumConfig(terms=terms).build(exclusive=False)
    assert loss(logits, target).item() == pytest.approx(3 * dice)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (({"loss": {"kind": "dice"}, "weight": 0},), "above 0"),
        (({"loss": {"kind": "dice"}, "first_weight": 0, "ramp_start": 3},), "above 0"),
        (({"loss": {"kind": "dice"}, "ramp_epochs": 3},), "first_weight"),
        ((), "at least 1"),
        (({"loss": {"kind": "sum", "terms": []}},), "expected"),
    ],
)
def test_sums_without_sense_are_refused(terms: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SumConfig(terms=terms)
