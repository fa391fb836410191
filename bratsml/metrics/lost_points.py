"""Where Dice is lost: in lesions missed, in lesions made up, or at the boundary of those found.

With P and R the voxels of prediction and reference, ``1 - Dice = (FP + FN) / (P + R)``. Every false
voxel belongs to exactly one of three groups, so their shares add up to what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bratsml.metrics.instances import find_instances
from bratsml.metrics.masks import BoolVolume, require_masks


@dataclass(frozen=True)
class LostPoints:
    """Shares of ``1 - Dice``; all 0 when both masks are empty.

    Attributes:
        missed: From lesions of the reference that no predicted voxel touches.
        made_up: From predicted lesions that touch no voxel of the reference.
        boundary: From false voxels of lesions that were found.
    """

    missed: float
    made_up: float
    boundary: float


def lost_points(prediction: BoolVolume, reference: BoolVolume) -> LostPoints:
    """Split what the Dice coefficient of one region lacks.

    Args:
        prediction: Shape ``(X, Y, Z)``; lesions are its 26-connected components.
        reference: Same shape.

    Raises:
        ValueError: Not boolean, or different shapes.
    """
    require_masks(prediction, reference)
    total = int(prediction.sum()) + int(reference.sum())
    if not total:
        return LostPoints(0.0, 0.0, 0.0)
    missed = _untouched_voxels(reference, prediction)
    made_up = _untouched_voxels(prediction, reference)
    false = int((prediction != reference).sum())
    return LostPoints(missed / total, made_up / total, (false - missed - made_up) / total)


def _untouched_voxels(mask: BoolVolume, other: BoolVolume) -> int:
    """Voxels of the components of ``mask`` that share no voxel with ``other``."""
    lesions = find_instances(mask, 0)
    met = np.unique(lesions.labels[other.reshape(-1)[lesions.places]])
    untouched = np.ones(len(lesions.sizes), dtype=bool)
    untouched[met] = False
    return int(lesions.sizes[untouched].sum())
