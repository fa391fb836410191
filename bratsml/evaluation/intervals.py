"""Uncertainty of a mean over cases."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

NUM_RESAMPLES = 10_000


def bootstrap_mean(
    values: npt.NDArray[np.floating], seed: int, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979), cases resampled with replacement.

    Args:
        values: One number per case, shape ``(num_cases,)``, none NaN.
        seed: Makes the interval the same every time.
        level: Share of resampled means inside the interval.

    Returns:
        Lower and upper end; both NaN without cases, both the value with a single one.
    """
    if values.size == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, values.size, size=(NUM_RESAMPLES, values.size))
    tail = (1 - level) / 2
    low, high = np.quantile(values[picks].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)
