"""Recomputed blocks, and copies of networks that have them."""

from __future__ import annotations

import copy

import torch
from torch import nn

from bratsml.models.recompute import recompute_in_backward


def network() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh()))
    recompute_in_backward(made, (nn.Linear,))
    return made


def test_gradients_are_those_without() -> None:
    made, plain = (
        network(),
        nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh())),
    )
    plain.load_state_dict(made.state_dict())
    for one in (made, plain):
        one(torch.ones(4, 2)).square().sum().backward()
    for ours, theirs in zip(made.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_a_copy_computes_with_its_own_weights() -> None:
    made = network()
    other = copy.deepcopy(made)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    for mode in (True, False):
        other.train(mode)
        assert not other(torch.ones(1, 2)).any()
