"""Which case each training sample is taken from: by position alone, in rounds.

A position counts the samples drawn since training began, across epochs. Whatever is drawn for it
comes from generators made for the seed and the round it lies in, so any sample can be known without
those before it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from bratsml.config import Config

ET = "ET"
_SLOTS, _WITH, _WITHOUT = 2, 3, 4
"""Streams of random numbers; 0 is that of :class:`RoundRobin`, 1 that of the patches."""
_ORDER = 0

Generators = Callable[..., np.random.Generator]
"""Gives a generator for a stream and a number within it."""
_log = logging.getLogger(__name__)


class UniformSampling(Config):
    """Every case as often as any other."""

    kind: Literal["uniform"] = "uniform"


class BalancedETSampling(Config):
    """A fixed share of the samples from cases that have enhancing tumour, the rest from the others.

    Within either group every case comes as often as any other. Where all cases have enhancing
    tumour or none, there is nothing to balance, and sampling is uniform.

    Attributes:
        share: Of the samples, from cases with enhancing tumour.
    """

    kind: Literal["balanced_et"] = "balanced_et"
    share: float = Field(default=0.5, gt=0, lt=1)


CaseSampling = Annotated[UniformSampling | BalancedETSampling, Field(discriminator="kind")]
"""One of the ways to choose cases, told apart by ``kind``."""


class RoundRobin:
    """The cases in rounds, each in a random order of its own.

    Args:
        case_ids: At least one.
        stream: Its random numbers'.
    """

    def __init__(self, case_ids: Sequence[str], generators: Generators, stream: int) -> None:
        self._case_ids, self._generators, self._stream = case_ids, generators, stream

    def case_at(self, position: int) -> str:
        """The case at a position."""
        round_number, place = divmod(position, len(self._case_ids))
        order = self._generators(self._stream, round_number).permutation(len(self._case_ids))
        return self._case_ids[int(order[place])]


class Balanced:
    """Two groups of cases mixed in a fixed proportion, each in rounds of its own.

    Of any number of samples from the start on, the share of the first group is exact to less than
    one round; where its turns lie within a round is random.

    Args:
        first, second: Cases of both groups, at least one each.
        share: Of the samples, from the first group.
    """

    def __init__(
        self, first: Sequence[str], second: Sequence[str], share: float, generators: Generators
    ) -> None:
        self._round = len(first) + len(second)
        self._share, self._generators = share, generators
        self._first = RoundRobin(first, generators, _WITH)
        self._second = RoundRobin(second, generators, _WITHOUT)

    def case_at(self, position: int) -> str:
        """The case at a position."""
        round_number, place = divmod(position, self._round)
        start = round_number * self._round
        before = math.floor(start * self._share)
        turns = math.floor((start + self._round) * self._share) - before
        of_first = np.zeros(self._round, dtype=bool)
        of_first[self._generators(_SLOTS, round_number).permutation(self._round)[:turns]] = True
        earlier = int(of_first[:place].sum())
        if of_first[place]:
            return self._first.case_at(before + earlier)
        return self._second.case_at(start - before + place - earlier)


def choose_sampler(
    config: UniformSampling | BalancedETSampling,
    case_ids: Sequence[str],
    with_et: Collection[str],
    generators: Generators,
) -> RoundRobin | Balanced:
    """The sampler of a set of cases.

    Args:
        case_ids: In a fixed order, at least one.
        with_et: Those that have enhancing tumour.
        generators: Called with a stream and the number of a round.
    """
    if isinstance(config, BalancedETSampling):
        first = [case_id for case_id in case_ids if case_id in with_et]
        second = [case_id for case_id in case_ids if case_id not in with_et]
        if first and second:
            return Balanced(first, second, config.share, generators)
        _log.warning(
            "%s of the %d training cases has enhancing tumour; loader.case_sampling is uniform",
            "every one" if first else "none",
            len(case_ids),
        )
    return RoundRobin(case_ids, generators, _ORDER)
