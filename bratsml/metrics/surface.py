"""Distances between the surfaces of two masks."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from bratsml.geometry import CropBox, Spacing
from bratsml.metrics.empty import EmptyPolicy
from bratsml.metrics.masks import require_masks

BoolVolume = npt.NDArray[np.bool_]


def hausdorff95_mm(
    prediction: BoolVolume,
    reference: BoolVolume,
    spacing_mm: Spacing,
    policy: EmptyPolicy,
    penalty_mm: float | None = None,
) -> float:
    """Symmetric 95th-percentile surface distance in millimetres, over boundary voxels.

    The surface of a mask is its voxels with a face neighbour outside it (voxels at the border of
    the volume count). For each direction the 95th percentile of the distances from the voxels of
    one surface to the nearest of the other; the larger of the two. Source: Huttenlocher et al.
    1993, IEEE TPAMI 15(9), with a percentile. The challenges' own HD95 weights surface elements
    by their area and gives other numbers.

    Empty masks: as the policy says; where it says ``inf``, the penalty.

    Args:
        prediction: Region mask of shape ``(X, Y, Z)``.
        reference: Same shape as ``prediction``.
        spacing_mm: Voxel size along ``X``, ``Y``, ``Z``.
        penalty_mm: The diagonal of the volume if not given.

    Raises:
        ValueError: Not boolean, or different shapes.
    """
    require_masks(prediction, reference)
    box = CropBox.around(prediction | reference)
    if box is None:
        return policy.both_distance
    if not prediction.any() or not reference.any():
        distance = policy.one_distance
        return (
            _diagonal_mm(prediction, spacing_mm, penalty_mm) if math.isinf(distance) else distance
        )
    ours = surface_of(box.crop(prediction).astype(bool))
    theirs = surface_of(box.crop(reference).astype(bool))
    return max(
        _percentile(ours, theirs, spacing_mm),
        _percentile(theirs, ours, spacing_mm),
    )


def surface_of(mask: BoolVolume) -> BoolVolume:
    """Voxels of the mask with at least one of six neighbours outside it."""
    return mask & ~ndimage.binary_erosion(mask)


def _percentile(from_surface: BoolVolume, to_surface: BoolVolume, spacing_mm: Spacing) -> float:
    distances = ndimage.distance_transform_edt(~to_surface, sampling=spacing_mm)
    return float(np.percentile(distances[from_surface], 95))


def _diagonal_mm(mask: BoolVolume, spacing_mm: Spacing, penalty_mm: float | None) -> float:
    if penalty_mm is not None:
        return penalty_mm
    return math.hypot(*(n * mm for n, mm in zip(mask.shape, spacing_mm, strict=True)))
