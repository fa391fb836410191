"""The contract of every loss: a new one is one line in LOSSES."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bratsml.losses.registry import (
    BoundaryConfig,
    CrossEntropyConfig,
    DiceConfig,
    DiceCrossEntropyConfig,
    FocalConfig,
    FocalTverskyConfig,
    GeneralizedDiceConfig,
    SumConfig,
    TverskyConfig,
)

LOSSES = [
    DiceConfig(),
    DiceConfig(batch=True, squared=True),
    CrossEntropyConfig(),
    DiceCrossEntropyConfig(),
    DiceCrossEntropyConfig(dice_weight=0.5, ce_weight=2.0),
    GeneralizedDiceConfig(),
    GeneralizedDiceConfig(weighting="simple", batch=True),
    FocalConfig(),
    FocalConfig(gamma=0.5, alpha=0.75),
    TverskyConfig(),
    TverskyConfig(batch=True),
    FocalTverskyConfig(),
    BoundaryConfig(),
    BoundaryConfig(distance="hausdorff"),
    SumConfig(
        terms=(
            {"loss": {"kind": "dice"}, "weight": 0.5},
            {"loss": {"kind": "boundary"}, "first_weight": 0, "ramp_epochs": 5},
        )
    ),
]


def target_of(exclusive: bool, empty: bool = False) -> torch.Tensor:
    """Two cases of 4 voxels a side; three regions, or three classes with background."""
    rng = torch.Generator().manual_seed(0)
    if exclusive:
        target = torch.randint(0, 3, (2, 1, 4, 4, 4), generator=rng)
    else:
        target = (torch.rand((2, 3, 4, 4, 4), generator=rng) > 0.5).float()
    return target * 0 if empty else target


def perfect_logits(target: torch.Tensor, exclusive: bool) -> torch.Tensor:
    if exclusive:
        one_hot = torch.nn.functional.one_hot(target[:, 0], 3).movedim(-1, 1).float()
        return 40 * one_hot
    return 40 * (2 * target - 1)


@pytest.mark.parametrize("exclusive", [False, True], ids=["regions", "classes"])
@pytest.mark.parametrize("config", LOSSES, ids=lambda c: f"{c.kind}-{LOSSES.index(c)}")
class TestEveryLoss:
    def test_is_a_scalar_in_float32_whatever_the_logits(self, config: Any, exclusive: bool) -> None:
        loss, target = config.build(exclusive), target_of(exclusive)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            logits = torch.full((2, 3, 4, 4, 4), 3.0, dtype=dtype)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                value = loss(logits, target)
            assert value.shape == ()
            assert value.dtype == torch.float32
            assert torch.isfinite(value)

    def test_half_precision_logits_of_a_large_patch_do_not_overflow(
        self, config: Any, exclusive: bool
    ) -> None:
        # 64 cubed voxels sum to 262144, beyond what 16-bit floats hold
        shape = (1, 3, 64, 64, 64)
        target = torch.ones((1, 1 if exclusive else 3, *shape[2:]))
        value = config.build(exclusive)(torch.ones(shape, dtype=torch.float16), target)
        assert torch.isfinite(value)

    def test_an_empty_target_gives_a_finite_gradient(self, config: Any, exclusive: bool) -> None:
        logits = torch.randn((2, 3, 4, 4, 4), generator=torch.Generator().manual_seed(3))
        logits.requires_grad_()
        config.build(exclusive)(logits, target_of(exclusive, empty=True)).backward()
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()
        assert logits.grad.abs().sum() > 0

    def test_the_truth_costs_nothing_and_less_than_noise(
        self, config: Any, exclusive: bool
    ) -> None:
        loss, target = config.build(exclusive), target_of(exclusive)
        perfect = loss(perfect_logits(target, exclusive), target)
        assert perfect.item() == pytest.approx(0.0, abs=1e-3)
        noise = torch.randn((2, 3, 4, 4, 4), generator=torch.Generator().manual_seed(4))
        assert loss(noise, target) > perfect + 0.1
