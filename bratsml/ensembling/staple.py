"""STAPLE: the likely truth behind several masks, and how far each can be trusted.

Source: Warfield, Zou, Wells: Simultaneous truth and performance level estimation (IEEE TMI 2004),
binary, without a spatial model. A voxel enters only through which members hold it, so voxels with
the same pattern of decisions are counted once: exact, and as fast for a million voxels as for ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST_MEMBERS = 62
"""Decisions are the bits of one 64-bit number."""
FIRST_GUESS = 0.99999
"""Sensitivity and specificity that the iteration starts from, as the authors do."""
TOLERANCE = 1e-7
MOST_ITERATIONS = 1000

Patterns = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Staple:
    """What STAPLE found.

    Attributes:
        patterns: Decision patterns that occur, ascending, shape ``(P,)``; bit m is member m's.
        truth: Probability that a voxel of each pattern belongs to the truth, shape ``(P,)``.
        sensitivity, specificity: Of each member, shape ``(M,)``.
    """

    patterns: Patterns
    truth: npt.NDArray[np.float64]
    sensitivity: npt.NDArray[np.float64]
    specificity: npt.NDArray[np.float64]

    def of(self, patterns: Patterns) -> npt.NDArray[np.float32]:
        """Probability of the truth for voxels of known patterns, in their shape."""
        return self.truth[np.searchsorted(self.patterns, patterns)].astype(np.float32)


def patterns_of(masks: npt.NDArray[np.bool_]) -> Patterns:
    """Decisions of members ``(M, ...)`` as one number per voxel ``(...)``.

    Raises:
        ValueError: More members than a number has bits.
    """
    if len(masks) > MOST_MEMBERS:
        raise ValueError(f"STAPLE takes up to {MOST_MEMBERS} members, received {len(masks)}")
    codes = np.zeros(masks.shape[1:], dtype=np.int64)
    for member, mask in enumerate(masks):
        codes |= mask.astype(np.int64) << member
    return codes


def count_patterns(codes: Sequence[Patterns]) -> dict[int, int]:
    """How many voxels of some blocks have which pattern."""
    counts: dict[int, int] = {}
    for block in codes:
        for pattern, count in zip(*np.unique(block, return_counts=True), strict=True):
            counts[int(pattern)] = counts.get(int(pattern), 0) + int(count)
    return counts


def staple(counts: dict[int, int], num_members: int) -> Staple:
    """Estimate truth and performance by expectation maximisation.

    The share of the region among all decisions is the prior, the same for every voxel.

    Args:
        counts: Pattern to number of voxels, over the whole volume.

    Raises:
        ValueError: Not a single voxel, or no members.
    """
    if num_members < 1 or sum(counts.values()) < 1:
        raise ValueError("STAPLE needs a member and a voxel")
    patterns = np.array(sorted(counts), dtype=np.int64)
    voxels = np.array([counts[int(p)] for p in patterns], dtype=np.float64)
    said = ((patterns[:, None] >> np.arange(num_members)) & 1).astype(bool)
    prior = float(voxels @ said.mean(axis=1) / voxels.sum())
    sensitivity = np.full(num_members, FIRST_GUESS)
    specificity = np.full(num_members, FIRST_GUESS)
    truth = _truth(said, sensitivity, specificity, prior)
    for _ in range(MOST_ITERATIONS):
        before = np.concatenate([sensitivity, specificity])
        sensitivity = _share(voxels * truth, said)
        specificity = _share(voxels * (1 - truth), ~said)
        truth = _truth(said, sensitivity, specificity, prior)
        if np.abs(np.concatenate([sensitivity, specificity]) - before).max() < TOLERANCE:
            break
    return Staple(patterns, truth, sensitivity, specificity)


def _truth(
    said: npt.NDArray[np.bool_],
    sensitivity: npt.NDArray[np.float64],
    specificity: npt.NDArray[np.float64],
    prior: float,
) -> npt.NDArray[np.float64]:
    """Probability of the truth for each pattern: the expectation step."""
    if prior in (0.0, 1.0):  # nobody or everybody sees it everywhere: nothing to estimate
        return np.full(len(said), prior)
    with np.errstate(divide="ignore"):
        inside = np.where(said, np.log(sensitivity), np.log1p(-sensitivity)).sum(axis=1)
        outside = np.where(said, np.log1p(-specificity), np.log(specificity)).sum(axis=1)
    inside, outside = inside + np.log(prior), outside + np.log1p(-prior)
    largest = np.maximum(inside, outside)
    largest[np.isneginf(largest)] = 0.0
    odds_in, odds_out = np.exp(inside - largest), np.exp(outside - largest)
    total = odds_in + odds_out
    # a pattern that neither can explain keeps the prior
    return np.where(total > 0, odds_in / np.where(total > 0, total, 1), prior)


def _share(voxels: npt.NDArray[np.float64], said: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Share of those voxels of which each member says so; the first guess where there are none."""
    total = voxels.sum()
    if total <= 0:
        return np.full(said.shape[1], FIRST_GUESS)
    return np.clip(voxels @ said / total, 0.0, 1.0)
