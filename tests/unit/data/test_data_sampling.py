"""Which case comes when: shares, rounds, and that nothing but the position matters."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import numpy as np
import pytest

from bratsml.config import Config, build_config
from bratsml.data.sampling import (
    BalancedETSampling,
    CaseSampling,
    UniformSampling,
    choose_sampler,
)
from bratsml.errors import ConfigError

CASES = tuple(f"c{number}" for number in range(10))
RARE = {"c2", "c7"}


def generators(*stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(3, spawn_key=stream))


def sampler(share: float = 0.5, with_et: set[str] = RARE) -> Any:
    return choose_sampler(BalancedETSampling(share=share), CASES, with_et, generators)


@pytest.mark.parametrize("share", [0.5, 0.25, 0.7, 0.05])
def test_after_every_round_the_share_is_right_to_one_sample(share: float) -> None:
    has_et = np.array([sampler(share).case_at(position) in RARE for position in range(400)])
    for rounds in range(1, 41):
        assert abs(has_et[: 10 * rounds].sum() - 10 * rounds * share) <= 1


def test_each_case_of_a_group_comes_as_often_as_the_others() -> None:
    counts = Counter(sampler().case_at(position) for position in range(160))
    assert {counts[case] for case in RARE} == {40}  # 80 turns over two cases
    assert {counts[case] for case in CASES if case not in RARE} == {10}  # 80 over eight


def test_where_the_turns_lie_is_random() -> None:
    has_et = np.array([sampler().case_at(position) in RARE for position in range(2000)])
    # a fixed order would tie the groups to other things that go by position, such as centring
    assert 0.45 < has_et[::2].mean() < 0.55
    assert 0.3 < (has_et[1:] == has_et[:-1]).mean() < 0.6


def test_a_position_does_not_need_those_before() -> None:
    forward = [sampler().case_at(position) for position in range(50)]
    the_sampler = sampler()
    assert [the_sampler.case_at(p) for p in reversed(range(50))] == forward[::-1]


@pytest.mark.parametrize(("with_et", "words"), [(set(), "none of the 10"), (set(CASES), "every")])
def test_without_two_groups_it_is_uniform_and_says_so_once(
    with_et: set[str], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        balanced = sampler(with_et=with_et)
        cases = [balanced.case_at(position) for position in range(30)]
    uniform = choose_sampler(UniformSampling(), CASES, with_et, generators)
    assert cases == [uniform.case_at(position) for position in range(30)]
    assert len(caplog.records) == 1
    assert words in caplog.text


class Holder(Config):
    sampling: CaseSampling


@pytest.mark.parametrize("share", [0, 1])
def test_a_share_of_nothing_or_all_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match=r"sampling.*share"):
        build_config(Holder, {"sampling": {"kind": "balanced_et", "share": share}})
