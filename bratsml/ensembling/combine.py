"""Members of other architectures combined per region: means, weighted means, STAPLE.

With p_m the probability that member m gives a region at a voxel:

- ``probabilities``: mean of p_m.
- ``logits``: sigmoid of the mean of log(p_m / (1 - p_m)).
- ``fitted``: sum_m w_m p_m / sum_m w_m, one weight per member and region.
- ``staple``: STAPLE of the masks p_m > 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from bratsml.ensembling.staple import count_patterns, patterns_of, staple
from bratsml.ensembling.volumes import Block, MemberVolumes, Probabilities

Combination = Literal["probabilities", "logits", "fitted", "staple"]
COMBINATIONS: tuple[Combination, ...] = get_args(Combination)
Weights = npt.NDArray[np.float64]
"""Shape ``(M, R)``, none negative; over the members of a region they sum to one."""

LEAST_PROBABILITY = 1 / 510
"""Half a step of probabilities kept as bytes: closer to 0 and 1 nothing is known of a logit."""


def combine(
    volumes: MemberVolumes,
    kind: Combination,
    members: Sequence[int] | None = None,
    weights: Weights | None = None,
) -> Probabilities:
    """What some members say together, ``(R, X, Y, Z)`` on ``volumes.box``; outside it is 0.

    Slab by slab: memory does not grow with the number of members.

    Args:
        members: Numbers in the order they were added; all if not given.
        weights: Of those members, for ``fitted``.

    Raises:
        ValueError: No member, or no weights where they are needed.
    """
    chosen = tuple(range(len(volumes)) if members is None else members)
    if not chosen:
        raise ValueError("nothing to combine")
    if kind == "staple":
        return _staple(volumes, chosen)
    if kind == "fitted" and (
        weights is None or weights.shape != (len(chosen), volumes.num_regions)
    ):
        raise ValueError("a fitted combination needs one weight per member and region")
    together = np.zeros((volumes.num_regions, *volumes.box.shape), dtype=np.float32)
    for place, block in volumes.blocks(chosen):
        together[:, place] = _mean(block, kind, weights)
    return together


def _mean(block: Block, kind: Combination, weights: Weights | None) -> npt.NDArray[np.float32]:
    if kind == "fitted":
        assert weights is not None
        shares = (weights / weights.sum(axis=0)).astype(np.float32)
        return np.einsum("mr...,mr->r...", block, shares)
    if kind == "probabilities":
        return block.mean(axis=0)
    clipped = np.clip(block, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    logit = np.log(clipped / (1 - clipped)).mean(axis=0)
    return (1 / (1 + np.exp(-logit))).astype(np.float32)


def _staple(volumes: MemberVolumes, members: Sequence[int]) -> Probabilities:
    """Each region on its own; voxels outside the box count as seen by no member."""
    codes = np.zeros((volumes.num_regions, *volumes.box.shape), dtype=np.int64)
    for place, block in volumes.blocks(members):
        codes[:, place] = patterns_of(block > 0.5)
    outside = int(np.prod(volumes.shape)) - codes[0].size
    together = np.zeros(codes.shape, dtype=np.float32)
    for region, of_region in enumerate(codes):
        counts = count_patterns([of_region])
        counts[0] = counts.get(0, 0) + outside
        together[region] = staple(counts, len(members)).of(of_region)
    return together
