"""Distances between the surfaces of two masks.

What a surface is, is an argument everywhere: ``"voxels"`` or ``"elements"``
(:mod:`bratsml.metrics.surface_points`). The challenges' HD95 is that of elements, weighted by their
area; MONAI's, and the default here, that of boundary voxels. On one real prediction the first is 58
mm and the second 6 mm, so neither may be quoted without its name. Sources: Huttenlocher et al. 1993
(Hausdorff), Heimann et al. 2009 (average distance), Nikolov et al. 2018 (normalised surface Dice).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bratsml.geometry import CropBox, Spacing
from bratsml.metrics import bits
from bratsml.metrics.distances import (
    hausdorff_of,
    mean_distance,
    measure,
    percentile,
    share_within,
)
from bratsml.metrics.empty import BRATS, EmptyPolicy, EmptyScore
from bratsml.metrics.masks import BoolVolume, require_masks, require_spacing
from bratsml.metrics.surface_points import SurfaceKind, SurfacePoints, surface_points


@dataclass(frozen=True)
class SurfaceScores:
    """All distances between two surfaces.

    Attributes:
        hd95_mm, hd100_mm: Symmetric 95th percentile and maximum.
        average_mm: Mean distance over the points of both surfaces (ASSD).
        nsd: Share of both surfaces within each tolerance of the other, 0 to 1.
    """

    hd95_mm: float
    hd100_mm: float
    average_mm: float
    nsd: tuple[float, ...] = ()


def surface_scores(
    prediction: BoolVolume,
    reference: BoolVolume,
    spacing_mm: Spacing,
    *,
    tolerances_mm: tuple[float, ...] = (),
    policy: EmptyPolicy = BRATS,
    penalty_mm: float | None = None,
    surface: SurfaceKind = "voxels",
) -> SurfaceScores:
    """Every distance at once; arguments, empty masks and errors as for :func:`hausdorff_mm`.

    Args:
        tolerances_mm: Of the normalised surface Dice; of empty masks it is what the policy says of
            Dice.
    """
    found = _surfaces(prediction, reference, spacing_mm, policy, surface)
    if isinstance(found, EmptyScore):
        mm = _punished(found.distance_mm, penalty_mm, prediction.shape, spacing_mm)
        return SurfaceScores(mm, mm, mm, (found.dice,) * len(tolerances_mm))
    both = measure(*found, spacing_mm)
    return SurfaceScores(
        percentile(both, 95, surface),
        percentile(both, 100, surface),
        mean_distance(both),
        tuple(share_within(both, mm) for mm in tolerances_mm),
    )


def hausdorff_mm(
    prediction: BoolVolume,
    reference: BoolVolume,
    spacing_mm: Spacing,
    policy: EmptyPolicy = BRATS,
    penalty_mm: float | None = None,
    *,
    percent: float = 95,
    surface: SurfaceKind = "voxels",
) -> float:
    """Symmetric percentile of surface distances in millimetres.

    For each direction the percentile of the distances from the points of one surface to the nearest
    of the other; the larger of the two. Over voxels each counts the same, with linear interpolation
    between ranks; over elements each counts by its area, without interpolation.

    Empty masks: as the policy says. NaN where it leaves the case out, the penalty where it punishes
    a miss.

    Args:
        prediction: Region mask of shape ``(X, Y, Z)``.
        reference: Same shape as ``prediction``.
        spacing_mm: Voxel size along ``X``, ``Y``, ``Z``.
        penalty_mm: The diagonal of the volume if not given.
        percent: 0 to 100; 100 is the Hausdorff distance itself.

    Raises:
        ValueError: Not boolean, different shapes, or voxel sizes that are not finite and above 0.
    """
    found = _surfaces(prediction, reference, spacing_mm, policy, surface)
    if isinstance(found, EmptyScore):
        return _punished(found.distance_mm, penalty_mm, prediction.shape, spacing_mm)
    return hausdorff_of(*found, spacing_mm, percent, surface)


def hausdorff95_mm(
    prediction: BoolVolume,
    reference: BoolVolume,
    spacing_mm: Spacing,
    policy: EmptyPolicy = BRATS,
    penalty_mm: float | None = None,
    *,
    surface: SurfaceKind = "voxels",
) -> float:
    """:func:`hausdorff_mm` at 95 percent."""
    return hausdorff_mm(prediction, reference, spacing_mm, policy, penalty_mm, surface=surface)


def normalized_surface_dice(
    prediction: BoolVolume,
    reference: BoolVolume,
    spacing_mm: Spacing,
    tolerance_mm: float,
    policy: EmptyPolicy = BRATS,
    *,
    surface: SurfaceKind = "voxels",
) -> float:
    """Share of both surfaces together that is within the tolerance of the other, 0 to 1.

    The rules of 2025 take the mean of the two surfaces' shares instead
    (:mod:`bratsml.metrics.lesions`). Empty masks: what the policy says of Dice.

    Raises:
        ValueError: As :func:`hausdorff_mm`, or a tolerance below 0 or NaN.
    """
    if not tolerance_mm >= 0:
        raise ValueError(f"tolerance must be 0 mm or more, received {tolerance_mm}")
    found = _surfaces(prediction, reference, spacing_mm, policy, surface)
    if isinstance(found, EmptyScore):
        return found.dice
    return share_within(measure(*found, spacing_mm, tolerance_mm), tolerance_mm)


def surface_of(mask: BoolVolume) -> BoolVolume:
    """Voxels of the mask with at least one of six neighbours outside it or outside the volume."""
    x, y, z = mask.shape
    return bits.unpack(bits.boundary(bits.pack(mask)), (x, y, z))


def _surfaces(
    prediction: BoolVolume,
    reference: BoolVolume,
    spacing_mm: Spacing,
    policy: EmptyPolicy,
    surface: SurfaceKind,
) -> tuple[SurfacePoints, SurfacePoints] | EmptyScore:
    """Both surfaces, or what the policy says where a mask is empty."""
    require_masks(prediction, reference)
    require_spacing(spacing_mm)
    empty = policy.score(bool(prediction.any()), bool(reference.any()))
    if empty is not None:
        return empty
    # beyond the joint box neither mask has a voxel, so no surface and no distance changes
    box = CropBox.around(prediction | reference)
    assert box is not None
    ours, theirs = (
        surface_points(mask[box.slices].astype(np.int32), spacing_mm, surface)
        for mask in (prediction, reference)
    )
    return ours, theirs


def _punished(
    distance_mm: float, penalty_mm: float | None, shape: tuple[int, ...], spacing_mm: Spacing
) -> float:
    """The distance, or the penalty where it is infinite."""
    if not math.isinf(distance_mm):
        return distance_mm
    if penalty_mm is not None:
        return penalty_mm
    return math.hypot(*(n * mm for n, mm in zip(shape, spacing_mm, strict=True)))
