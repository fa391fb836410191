"""Giving up a trial between folds, case by case."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.stats import wilcoxon

FEWEST_CASES = 6
"""With fewer pairs the smallest p a signed-rank test can give is above 0.01."""


def clearly_worse(ours: Mapping[str, float], best: Mapping[str, float], worse_p: float) -> bool:
    """Whether a trial scores the cases it has seen worse than the best trial scores the same cases.

    One-sided Wilcoxon signed-rank test (Wilcoxon 1945) on the pairs, ties left out.

    Args:
        ours: Case id to mean Dice, of the folds done so far; NaN is left out.
        best: The same for the best complete trial.
        worse_p: Largest p that counts as worse.

    Returns:
        False with fewer than :data:`FEWEST_CASES` pairs that differ, or when the mean is not lower.
    """
    pairs = np.array([(ours[case], best[case]) for case in ours.keys() & best.keys()])
    if not len(pairs):
        return False
    differences = pairs[:, 0] - pairs[:, 1]
    differences = differences[np.isfinite(differences) & (differences != 0)]
    if len(differences) < FEWEST_CASES or differences.mean() >= 0:
        return False
    return bool(wilcoxon(differences, alternative="less").pvalue < worse_p)
