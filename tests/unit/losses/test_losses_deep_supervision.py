from __future__ import annotations

import pytest
import torch

from bratsml.losses.deep_supervision import DeepSupervision, level_weights, nearest
from bratsml.losses.registry import CrossEntropyConfig, DiceCrossEntropyConfig


def test_each_resolution_counts_half_of_the_finer_one() -> None:
    assert level_weights(1) == [1.0]
    assert level_weights(3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])


def test_the_sum_by_hand() -> None:
    # logits of 0 cost ln 2 a voxel; certain and right ones nothing
    loss = DeepSupervision(CrossEntropyConfig().build(exclusive=False))
    target = torch.ones((1, 1, 4, 4, 4))
    right, unsure = torch.full((1, 1, 4, 4, 4), 90.0), torch.zeros((1, 1, 2, 2, 2))
    assert loss([right, unsure], target).item() == pytest.approx(0.693147 / 3, rel=1e-5)
    assert loss((right,), target).item() == pytest.approx(0.0, abs=1e-6)


def test_one_tensor_costs_what_the_plain_loss_says() -> None:
    plain = DiceCrossEntropyConfig().build(exclusive=True)
    logits = torch.randn((2, 3, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    target = torch.ones((2, 1, 4, 4, 4), dtype=torch.int64)
    assert torch.equal(DeepSupervision(plain)(logits, target), plain(logits, target))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_targets_are_picked_and_never_mixed(dtype: torch.dtype) -> None:
    line = torch.tensor([0, 1, 2, 4, 0, 4, 2, 1], dtype=dtype).reshape(1, 1, 8, 1, 1)
    small = nearest(line, (4, 1, 1))
    assert small.dtype == dtype
    assert small.flatten().tolist() == [1, 4, 4, 1]
    assert nearest(line, (2, 1, 1)).flatten().tolist() == [2, 2]
    assert torch.equal(nearest(line, (8, 1, 1)), line)


def test_every_resolution_gets_a_gradient() -> None:
    levels = [torch.zeros((1, 2, s, s, s), requires_grad=True) for s in (8, 4, 2)]
    loss = DeepSupervision(DiceCrossEntropyConfig().build(exclusive=False))
    loss(levels, torch.ones((1, 2, 8, 8, 8))).backward()
    assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in levels)
