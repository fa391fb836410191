"""Pruned weights: which go, that they stay away in training, and what they save."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bratsml.training.optim import OptimConfig
from bratsml.training.sparsity import (
    compressed_megabytes,
    hold_zeros,
    prunable_weights,
    prune_smallest,
    share_of_zeros,
)


class Net(nn.Module):
    """A convolution of 2 weights, a norm layer, and a linear layer of 4."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 2, 1)
        self.norm = nn.InstanceNorm3d(2, affine=True)
        self.last = nn.Linear(2, 2)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([0.1, -4.0]).view(2, 1, 1, 1, 1))
            self.last.weight.copy_(torch.tensor([[-0.2, 3.0], [0.3, -5.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)).movedim(1, -1))


def test_kernels_of_convolutions_and_linear_layers_can_go_and_nothing_else() -> None:
    assert list(prunable_weights(Net())) == ["first.weight", "last.weight"]


def test_a_shared_kernel_is_counted_once() -> None:
    one = nn.Linear(2, 2)
    assert list(prunable_weights(nn.Sequential(one, one))) == ["0.weight"]


def test_the_smallest_magnitudes_of_all_layers_go_first() -> None:
    net = Net()
    prune_smallest(list(prunable_weights(net).values()), 0.5)  # 3 of 6: .1, -.2, .3
    assert net.first.weight.flatten().tolist() == [0.0, -4.0]
    assert net.last.weight.tolist() == [[0.0, 3.0], [0.0, -5.0]]
    assert share_of_zeros(net) == 0.5
    assert net.norm.weight.tolist() == [1.0, 1.0]


def test_of_equal_magnitudes_exactly_as_many_go_as_asked() -> None:
    weight = nn.Parameter(torch.ones(10))
    prune_smallest([weight], 0.3)
    assert weight.tolist() == [0.0] * 3 + [1.0] * 7


@settings(deadline=None)
@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=30), st.floats(0, 0.99))
def test_what_stays_is_unchanged_and_never_smaller_than_what_goes(
    values: list[float], share: float
) -> None:
    before = torch.tensor(values)
    weight = nn.Parameter(before.clone())
    prune_smallest([weight], share)
    gone = (weight == 0) & (before != 0)
    stayed = weight != 0
    assert torch.equal(weight[stayed], before[stayed])
    if gone.any() and stayed.any():
        assert before[gone].abs().max() <= before[stayed].abs().min()
    assert gone.sum() <= round(share * len(values))


@pytest.mark.parametrize("kind", ["adamw", "sgd", "adamw_schedule_free"])
def test_zeros_are_held_through_training_and_the_rest_moves(kind: str) -> None:
    torch.manual_seed(0)
    net = Net()
    prune_smallest(list(prunable_weights(net).values()), 0.5)
    zeros = {name: weight == 0 for name, weight in prunable_weights(net).items()}
    before = {name: weight.detach().clone() for name, weight in prunable_weights(net).items()}
    assert hold_zeros(net, net.state_dict()) == 3
    config = OptimConfig(kind=kind, lr=0.1, weight_decay=0.1)  # type: ignore[arg-type]
    optimizer = config.build(net)
    if hasattr(optimizer, "train"):
        optimizer.train()
    for _ in range(4):
        net(torch.randn(1, 1, 3, 3, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in prunable_weights(net).items():
        assert (weight[zeros[name]] == 0).all()
        assert (weight[~zeros[name]] != before[name][~zeros[name]]).all()


def test_an_infinite_gradient_does_not_wake_a_pruned_weight() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    hold_zeros(net, net.state_dict())
    (net(torch.ones(1, 1)) * math.inf).sum().backward()
    assert net.weight.grad is not None
    assert net.weight.grad.item() == 0.0


def test_zeros_take_less_space() -> None:
    torch.manual_seed(0)
    net = nn.Linear(100, 100)
    whole = compressed_megabytes(net)
    assert 0.03 < whole < 0.041  # 10,100 numbers of four bytes
    prune_smallest(list(prunable_weights(net).values()), 0.9)
    assert compressed_megabytes(net) < 0.25 * whole


def test_a_network_without_such_layers_has_no_share() -> None:
    assert math.isnan(share_of_zeros(nn.InstanceNorm3d(2, affine=True)))
