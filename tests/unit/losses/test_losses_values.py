from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from bratsml.losses.registry import CrossEntropyConfig, DiceConfig, DiceCrossEntropyConfig


def voxels(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, len(values), 1, 1)


def test_dice_by_hand() -> None:
    # probabilities 1/2 and 3/4 (logits 0 and ln 3), target 1 and 0:
    # intersection 1/2, sums 5/4 and 1: Dice = 1 / (9/4) = 4/9
    value = DiceConfig(smooth=1e-9).build(exclusive=False)(voxels(0, math.log(3)), voxels(1, 0))
    assert value.item() == pytest.approx(1 - 4 / 9, abs=1e-6)


def test_squared_dice_by_hand() -> None:
    # squares 1/4 + 9/16 = 13/16 and 1: Dice = 1 / (29/16) = 16/29
    config = DiceConfig(smooth=1e-9, squared=True)
    value = config.build(exclusive=False)(voxels(0, math.log(3)), voxels(1, 0))
    assert value.item() == pytest.approx(1 - 16 / 29, abs=1e-6)


def test_batch_dice_pools_cases_before_the_ratio() -> None:
    logits = torch.cat([voxels(0, math.log(3)), voxels(40, -40)])
    target = torch.cat([voxels(1, 0), voxels(1, 0)])
    # second case: intersection 1, sums 1 and 1; pooled: 2 * 1.5 / (2.25 + 2)
    pooled = DiceConfig(smooth=1e-9, batch=True).build(exclusive=False)(logits, target)
    assert pooled.item() == pytest.approx(1 - 3 / 4.25, abs=1e-6)
    apart = DiceConfig(smooth=1e-9).build(exclusive=False)(logits, target)
    assert apart.item() == pytest.approx((1 - 4 / 9) / 2, abs=1e-6)


def test_class_dice_leaves_background_out() -> None:
    # two classes, logits 0 and ln 3 -> foreground probability 3/4 in both voxels; target 1 and 0:
    # intersection 3/4, sums 3/2 and 1: Dice = 1.5 / 2.5
    logits = torch.cat([voxels(0, 0), voxels(math.log(3), math.log(3))], dim=1)
    value = DiceConfig(smooth=1e-9).build(exclusive=True)(logits, voxels(1, 0).long())
    assert value.item() == pytest.approx(1 - 0.6, abs=1e-6)


def test_cross_entropy_by_hand() -> None:
    # -ln(1/2) and -ln(1 - 3/4), mean of two voxels
    value = CrossEntropyConfig().build(exclusive=False)(voxels(0, math.log(3)), voxels(1, 0))
    assert value.item() == pytest.approx((math.log(2) + math.log(4)) / 2, abs=1e-6)
    logits = torch.cat([voxels(0, 0), voxels(math.log(3), math.log(3))], dim=1)
    classes = CrossEntropyConfig().build(exclusive=True)(logits, voxels(1, 0).long())
    assert classes.item() == pytest.approx((-math.log(3 / 4) - math.log(1 / 4)) / 2, abs=1e-6)


def test_the_sum_over_classes_agrees_with_monai() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 4, 4, 4), generator=rng)
    target = torch.randint(0, 3, (2, 1, 4, 4, 4), generator=rng)
    peer = DiceCELoss(
        softmax=True, to_onehot_y=True, include_background=False, lambda_dice=0.5, lambda_ce=2.0
    )
    ours = DiceCrossEntropyConfig(dice_weight=0.5, ce_weight=2.0).build(exclusive=True)
    assert ours(logits, target).item() == pytest.approx(peer(logits, target).item(), abs=1e-4)


def test_the_sum_over_regions_is_binary_where_monais_is_categorical() -> None:
    # MONAI's DiceCELoss(sigmoid=True) takes a softmax cross-entropy over overlapping channels
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 4, 4, 4), generator=rng)
    target = torch.randint(0, 2, (2, 3, 4, 4, 4), generator=rng).float()
    dice = DiceLoss(sigmoid=True)(logits, target)
    binary = -(target * logits.sigmoid().log() + (1 - target) * (-logits).sigmoid().log()).mean()
    ours = DiceCrossEntropyConfig().build(exclusive=False)(logits, target)
    assert ours.item() == pytest.approx((dice + binary).item(), abs=1e-4)
