"""Overlap of two masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bratsml.metrics.empty import EmptyPolicy
from bratsml.metrics.masks import require_masks

BoolVolume = npt.NDArray[np.bool_]


def dice(prediction: BoolVolume, reference: BoolVolume, policy: EmptyPolicy) -> float:
    """Dice coefficient ``2 |P and R| / (|P| + |R|)`` (Dice 1945), between 0 and 1.

    Empty masks: as the policy says.

    Args:
        prediction: Mask of shape ``(X, Y, Z)``.
        reference: Same shape as ``prediction``.

    Raises:
        ValueError: Not boolean, or different shapes.
    """
    require_masks(prediction, reference)
    predicted, true = int(prediction.sum()), int(reference.sum())
    if predicted == 0 and true == 0:
        return policy.both_dice
    if predicted == 0 or true == 0:
        return policy.one_dice
    return 2.0 * int((prediction & reference).sum()) / (predicted + true)
