"""Means over cases that say over how many."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Mean:
    """A mean over cases.

    Attributes:
        value: NaN if no case has a score.
        num_cases: Over how many it was taken.
        num_left_out: Cases without a score (NaN), which the policy for empty masks left out.
    """

    value: float
    num_cases: int
    num_left_out: int

    def __str__(self) -> str:
        if not self.num_left_out:
            return f"{self.value:.4g} over {self.num_cases} cases"
        return f"{self.value:.4g} over {self.num_cases} cases, {self.num_left_out} left out"


def mean_over_cases(scores: Iterable[float]) -> Mean:
    """Mean of the scores that are not NaN.

    Raises:
        ValueError: An infinite score, which would hide all others.
    """
    values = np.asarray(list(scores), dtype=np.float64)
    if np.isinf(values).any():
        raise ValueError("an infinite score has no mean; give a penalty for empty masks")
    scored = values[~np.isnan(values)]
    value = float(scored.mean()) if scored.size else float("nan")
    return Mean(value, scored.size, values.size - scored.size)
