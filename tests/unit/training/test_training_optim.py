from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from bratsml.config import build_config
from bratsml.errors import ConfigError
from bratsml.experiment import Experiment
from bratsml.training.optim import OptimConfig, lr_of, set_lr


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv3d(1, 2, 1), nn.GroupNorm(1, 2), nn.PReLU())
        self.head = nn.Conv3d(2, 1, 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(3, 2))


def names_in(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[set[str]]:
    names = {id(weight): name for name, weight in model.named_parameters()}
    return [{names[id(w)] for w in group["params"]} for group in optimizer.param_groups]


def test_all_weights_are_one_group_in_order_unless_asked() -> None:
    model = Net()
    optimizer = OptimConfig().build(model)
    (group,) = optimizer.param_groups
    assert all(a is b for a, b in zip(group["params"], model.parameters(), strict=True))


def test_norms_and_biases_can_be_spared_the_decay() -> None:
    model = Net()
    optimizer = OptimConfig(weight_decay=0.1, decay_norms_and_biases=False).build(model)
    decayed, spared = names_in(optimizer, model)
    if "head.weight" not in decayed:
        decayed, spared = spared, decayed
    assert decayed == {"encoder.0.weight", "head.weight"}
    assert len(spared) == 6
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.0, 0.1}


def test_rates_by_name_follow_the_schedule() -> None:
    model = Net()
    factors = ({"match": "encoder.0.*", "factor": 0.1}, {"match": "encoder.*", "factor": 0.5})
    optimizer = OptimConfig(lr=1.0, lr_factors=factors).build(model)
    set_lr(optimizer, 2.0)
    names = names_in(optimizer, model)
    rates = {
        name: g["lr"] for g, ns in zip(optimizer.param_groups, names, strict=True) for name in ns
    }
    assert rates["encoder.0.weight"] == pytest.approx(0.2)  # the first that matches
    assert rates["encoder.2.weight"] == pytest.approx(1.0)
    assert rates["head.bias"] == 2.0
    assert lr_of(optimizer) == pytest.approx(2.0)


def test_a_pattern_that_decides_for_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="decoder"):
        OptimConfig(lr_factors=({"match": "decoder.*", "factor": 0.1},)).build(Net())


def test_frozen_weights_are_left_out() -> None:
    model = Net()
    model.encoder.requires_grad_(False)
    (names,) = names_in(OptimConfig().build(model), model)
    assert names == {"head.weight", "head.bias", "relative_position_bias_table"}
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="frozen"):
        OptimConfig().build(model)


def test_schedule_free_needs_its_momentum_and_knows_no_fused_form() -> None:
    with pytest.raises(ValidationError, match="momentum"):
        OptimConfig(kind="sgd_schedule_free", momentum=0.0)
    with pytest.raises(ValidationError, match="fused"):
        OptimConfig(kind="adamw_schedule_free", fused=True)


def test_nesterov_by_hand() -> None:
    # gradient 1 twice, lr 1, momentum 1/2: steps 1 + 1/2 and 1 + 1/2 * 3/2
    model = nn.Linear(1, 1, bias=False)
    start = model.weight.item()
    optimizer = OptimConfig(kind="sgd", lr=1.0, momentum=0.5, weight_decay=0).build(model)
    for expected in (1.5, 1.5 + 1.75):
        model.weight.grad = torch.ones_like(model.weight)
        optimizer.step()
        assert start - model.weight.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"schedule": {"kind": "cosine"}}, "schedule.kind"), ({"train": {"ema_decay": 0.9}}, "ema")],
)
def test_schedule_free_stands_beside_no_schedule_and_no_other_average(
    changes: dict, words: str
) -> None:
    tree = {"optim": {"kind": "adamw_schedule_free"}, "schedule": {"warmup_epochs": 2}}
    build_config(Experiment, tree, source="test")
    with pytest.raises(ConfigError, match=words):
        build_config(Experiment, tree | changes, source="test")
