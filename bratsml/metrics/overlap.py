"""Overlap of two masks."""

from __future__ import annotations

from bratsml.metrics.empty import BRATS, EmptyPolicy
from bratsml.metrics.masks import BoolVolume, require_masks


def dice(prediction: BoolVolume, reference: BoolVolume, policy: EmptyPolicy = BRATS) -> float:
    """Dice coefficient ``2 |P and R| / (|P| + |R|)`` (Dice 1945), between 0 and 1.

    Empty masks: as the policy says; NaN where it leaves the case out.

    Args:
        prediction: Mask of shape ``(X, Y, Z)``.
        reference: Same shape as ``prediction``.

    Raises:
        ValueError: Not boolean, or different shapes.
    """
    require_masks(prediction, reference)
    predicted, true = int(prediction.sum()), int(reference.sum())
    empty = policy.score(predicted > 0, true > 0)
    if empty is not None:
        return empty.dice
    return 2.0 * int((prediction & reference).sum()) / (predicted + true)
