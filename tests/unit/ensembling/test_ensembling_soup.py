"""Arithmetic on weights: by hand, without touching what goes in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bratsml.ensembling.soup import (
    Amounts,
    Ingredient,
    best_single,
    blend,
    by_score,
    greedy,
    has_running_statistics,
    learned,
    refresh_statistics,
    softmax,
    uniform,
)
from bratsml.errors import CheckpointError


def ingredient(name: str, **tensors: Any) -> Ingredient:
    return Ingredient(name, lambda: tensors)


def test_weights_are_averaged_and_whole_numbers_copied_from_the_best() -> None:
    three = [
        ingredient("a", w=torch.tensor([1.0, 2.0]), steps=torch.tensor(10)),
        ingredient("b", w=torch.tensor([4.0, 2.0]), steps=torch.tensor(20)),
        ingredient("c", w=torch.tensor([7.0, -1.0]), steps=torch.tensor(33)),
    ]
    soup = blend(three, uniform(3), copy_from=1)
    assert soup["w"].tolist() == [4.0, 1.0]
    assert soup["w"].dtype == torch.float32
    assert soup["steps"] == 20
    assert blend(three, (1.0, 0.0, 3.0))["w"].tolist() == [5.5, -0.25]
    only_copied = blend(three, (1.0, 0.0, 1.0), copy_from=1)
    assert only_copied["w"].tolist() == [4.0, 0.5]
    assert only_copied["steps"] == 20


def test_the_sum_is_taken_in_float64() -> None:
    tiny = [ingredient(str(n), w=torch.tensor([1e8 if n == 0 else 1.0])) for n in range(101)]
    # one by one in float32 the hundred ones would be lost: 1e8 + 1 is 1e8 there
    assert blend(tiny, uniform(101))["w"].item() == np.float32((1e8 + 100) / 101)
    half = [ingredient(str(n), w=torch.tensor([0.1 * n], dtype=torch.float16)) for n in range(3)]
    assert blend(half, uniform(3))["w"].dtype == torch.float16


def test_a_soup_of_equal_weights_is_that_weight_bit_for_bit() -> None:
    weights = torch.randn(50, generator=torch.Generator().manual_seed(0))
    same = [ingredient(str(n), w=weights) for n in range(7)]
    assert torch.equal(blend(same, uniform(7))["w"], weights)
    alone = blend(same, (0.0, 0.37, 0.0, 0.0, 0.0, 0.0, 0.0))["w"]
    assert torch.equal(alone, weights)


def test_ingredients_are_left_as_they_are() -> None:
    tensors = [
        {"w": torch.full((3,), float(n)), "d": torch.rand(3).double(), "steps": torch.tensor([n])}
        for n in range(4)
    ]
    before = [{name: value.clone() for name, value in each.items()} for each in tensors]
    soup = blend([ingredient(str(n), **each) for n, each in enumerate(tensors)], (2.0,) * 4)
    alone = blend([ingredient("x", **tensors[0])], (1.0,))
    for value in (*soup.values(), *alone.values()):
        value.fill_(1)  # the result shares no memory with them either
    for ours, was in zip(tensors, before, strict=True):
        assert all(torch.equal(ours[name], was[name]) for name in was)


def test_one_ingredient_is_in_memory_at_a_time() -> None:
    alive: list[int] = []

    class Held(dict):
        def __init__(self) -> None:
            super().__init__(w=torch.zeros(2))
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    most = 0

    def load() -> Held:
        nonlocal most
        most = max(most, len(alive))
        return Held()

    blend([Ingredient(str(n), load) for n in range(10)], uniform(10))
    assert most <= 1  # the one before may live until the next is there


def test_what_has_no_part_is_not_read() -> None:
    def refuse() -> dict[str, Tensor]:
        raise AssertionError("read")

    weights = ingredient("a", w=torch.ones(1))
    assert blend([weights, Ingredient("b", refuse)], (2.0, 0.0))["w"] == 1


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"w": torch.ones(3)}, r"b is of another architecture than a: w is \(3,\) float32"),
        ({"w": torch.ones(2).half()}, r"b is of another architecture than a: w is \(2,\) float16"),
        ({}, "b is of another architecture than a: only a has the tensor w"),
        ({"w": torch.ones(2), "z": torch.ones(1)}, "only b has the tensor z, a has not"),
        ({"w": torch.tensor([1.0, math.nan])}, "b holds NaN"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(other: dict[str, Tensor], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        blend([ingredient("a", w=torch.ones(2)), ingredient("b", **other)], uniform(2))


@pytest.mark.parametrize("amounts", [(), (1.0,), (0.0, 0.0), (2.0, -1.0), (math.nan, 1.0)])
def test_amounts_must_make_sense(amounts: Amounts) -> None:
    both = [ingredient("a", w=torch.ones(1)), ingredient("b", w=torch.ones(1))]
    with pytest.raises(ValueError, match="do not fit"):
        blend(both, amounts)


def scores_by_table(table: dict[Amounts, float]) -> Callable[[Amounts], float]:
    return lambda amounts: table[amounts]


def test_greedy_keeps_only_what_strictly_improves() -> None:
    # 2 is the best; with 0 it is as good (no gain), with 3 better, with 1 worse
    table = {
        (1.0, 0.0, 1.0, 0.0): 0.80,
        (0.0, 0.0, 1.0, 1.0): 0.82,
        (0.0, 1.0, 1.0, 1.0): 0.81,
    }
    choice = greedy([0.79, 0.10, 0.80, 0.50], scores_by_table(table))
    assert choice.amounts == (0.0, 0.0, 1.0, 1.0)
    assert [trial.score for trial in choice.trials] == [0.80, 0.80, 0.82, 0.81]
    assert [trial.is_kept for trial in choice.trials] == [True, False, True, False]


def test_greedy_is_at_least_as_good_as_the_best_and_passes_over_nan() -> None:
    choice = greedy([0.3, math.nan, 0.4], lambda amounts: math.nan)
    assert choice.amounts == (0.0, 0.0, 1.0)
    assert by_score([0.3, math.nan, 0.4, 0.4]) == [2, 3, 0, 1]
    assert best_single([math.nan, math.nan]) == 0


def test_learned_weights_find_the_best_mixture_of_a_known_one() -> None:
    target = np.array([0.7, 0.2, 0.1])

    def score_of(amounts: Amounts) -> float:
        return -float(((np.array(amounts) - target) ** 2).sum())

    choice = learned([0.5, 0.4, 0.3], score_of, evaluations=60)
    np.testing.assert_allclose(choice.amounts, target, atol=0.06)
    assert sum(choice.amounts) == pytest.approx(1)
    assert len(choice.trials) <= 60
    kept = [trial.score for trial in choice.trials if trial.is_kept]
    assert kept == sorted(set(kept))  # strictly better each time
    assert kept[-1] == max(trial.score for trial in choice.trials)


def test_learned_weights_keep_to_their_budget_and_may_stay_uniform() -> None:
    asked: list[Amounts] = []

    def flat(amounts: Amounts) -> float:
        asked.append(amounts)
        return 0.5

    choice = learned([0.1, 0.2], flat, evaluations=4)
    assert choice.amounts == (0.5, 0.5)
    assert len(asked) == 4
    up = softmax(np.array([0.0, 2.0]))  # the better ingredient is raised first, then lowered
    down = softmax(np.array([0.0, -2.0]))
    assert asked[1:3] == [up, down]
    assert up[1] == pytest.approx(math.exp(2) / (1 + math.exp(2)))
    everything = learned([0.1, 0.2], flat, evaluations=1000)
    assert len(everything.trials) == 1 + 4 * 4  # steps 2, 1, 1/2, 1/4; two ways for two


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.norm = nn.Dropout(0.9), nn.BatchNorm3d(1, momentum=0.1)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.drop(image))


def test_batch_norms_gather_the_plain_mean_anew_without_dropout() -> None:
    model = Normed()
    with torch.no_grad():
        model.norm.running_mean.fill_(100)
        model.norm.weight.fill_(3)
    images = [torch.full((1, 1, 2, 2, 2), 1.0), torch.full((1, 1, 2, 2, 2), 4.0)]
    images[1][0, 0, 0] = 8.0  # values 8 and 4, four of each: mean 6, unbiased variance 32 / 7
    refresh_statistics(model, images)
    assert model.norm.running_mean.item() == pytest.approx((1 + 6) / 2)
    assert model.norm.running_var.item() == pytest.approx((0 + 32 / 7) / 2)
    assert model.norm.momentum == 0.1
    assert model.norm.weight.item() == 3
    assert not any(module.training for module in model.modules())


def test_only_batch_norms_that_gather_need_it() -> None:
    assert has_running_statistics(Normed())
    assert not has_running_statistics(nn.Sequential(nn.Conv3d(1, 1, 1), nn.InstanceNorm3d(1)))
    assert not has_running_statistics(nn.BatchNorm3d(1, track_running_stats=False))
