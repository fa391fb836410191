"""Distances between the surfaces of two masks."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from bratsml.geometry import CropBox, Spacing
from bratsml.metrics.empty import BRATS, EmptyPolicy
from bratsml.metrics.masks import BoolVolume, require_masks, require_spacing


def hausdorff95_mm(
    prediction: BoolVolume,
    reference: BoolVolume,
    spacing_mm: Spacing,
    policy: EmptyPolicy = BRATS,
    penalty_mm: float | None = None,
) -> float:
    """Symmetric 95th-percentile surface distance in millimetres, over boundary voxels.

    The surface of a mask is its voxels with a face neighbour outside it (voxels at the border of
    the volume count). For each direction the 95th percentile of the distances from the voxels of
    one surface to the nearest of the other; the larger of the two. Source: Huttenlocher et al.
    1993, IEEE TPAMI 15(9), with a percentile. The challenges' own HD95 weights surface elements
    by their area and gives other numbers.

    Empty masks: as the policy says. NaN where it leaves the case out, the penalty where it punishes
    a miss.

    Args:
        prediction: Region mask of shape ``(X, Y, Z)``.
        reference: Same shape as ``prediction``.
        spacing_mm: Voxel size along ``X``, ``Y``, ``Z``.
        penalty_mm: The diagonal of the volume if not given.

    Raises:
        ValueError: Not boolean, different shapes, or voxel sizes that are not finite and above 0.
    """
    require_masks(prediction, reference)
    require_spacing(spacing_mm)
    boxes = CropBox.around(prediction), CropBox.around(reference)
    empty = policy.score(boxes[0] is not None, boxes[1] is not None)
    if empty is not None:
        return _punished(empty.distance_mm, penalty_mm, prediction.shape, spacing_mm)
    # beyond the joint box neither mask has a voxel, so no surface and no distance changes
    box = CropBox.around(prediction | reference)
    assert box is not None
    ours = surface_of(prediction[box.slices])
    theirs = surface_of(reference[box.slices])
    return max(
        _directed_percentile(ours, theirs, spacing_mm),
        _directed_percentile(theirs, ours, spacing_mm),
    )


def surface_of(mask: BoolVolume) -> BoolVolume:
    """Voxels of the mask with at least one of six neighbours outside it or outside the volume."""
    return mask & ~ndimage.binary_erosion(mask)


def _directed_percentile(start: BoolVolume, target: BoolVolume, spacing_mm: Spacing) -> float:
    """95th percentile of the distances from voxels of ``start`` to the nearest of ``target``."""
    distances = ndimage.distance_transform_edt(~target, sampling=spacing_mm)
    return float(np.percentile(distances[start], 95))


def _punished(
    distance_mm: float, penalty_mm: float | None, shape: tuple[int, ...], spacing_mm: Spacing
) -> float:
    """The distance, or the penalty where it is infinite."""
    if not math.isinf(distance_mm):
        return distance_mm
    if penalty_mm is not None:
        return penalty_mm
    return math.hypot(*(n * mm for n, mm in zip(shape, spacing_mm, strict=True)))
