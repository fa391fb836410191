"""A synthetic head: tissue fractions of a brain and the label map of its glioma.

The brain is a warped ellipsoid with sulci, a cortical ribbon, white matter, deep grey nuclei and
lateral ventricles; the tumour is a blob of irregular outline. Nothing claims anatomical truth: it
only has to look, to a network and to a reader, like the task. Arrays are ``(X, Y, Z)`` in the axis
order of the BraTS files (towards left, posterior, superior), one voxel is 1 mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from bratsml.geometry import Shape

Field = npt.NDArray[np.float64]
"""Scalar volume of shape ``(X, Y, Z)``."""
Mask = npt.NDArray[np.bool_]

BACKGROUND, NECROSIS, OEDEMA, ENHANCING = 0, 1, 2, 3
"""Values of a tissue map, whatever the label scheme of the files."""

_HALF_WIDTHS = (0.41, 0.45, 0.43)  # of the brain, as shares of the volume's sides
_CORTEX_MM = 2.0
_SMALLEST_CORE_MM = 1.6  # a voxel of necrosis and its neighbours
_SULCUS_DEPTH = 0.34  # how deep sulci reach, as a share of the largest depth in the brain


@dataclass(frozen=True)
class Brain:
    """A healthy brain.

    Attributes:
        inside: Mask of the skull-stripped brain.
        fractions: ``(3, X, Y, Z)``: share of CSF, grey and white matter, 1 in sum, 0 outside.
        depth_mm: Distance to the outside of the brain.
    """

    inside: Mask
    fractions: Field
    depth_mm: Field


@dataclass(frozen=True)
class TumourPlan:
    """Where a tumour sits and how it is made; visits of one patient share it.

    Attributes:
        centre: Voxel indices.
        core_mm: Radius of the tumour core.
        oedema_ratio: Radius of the oedema over that of the core.
        rim_mm: Thickness of the enhancing rim; 0 for a core that does not enhance.
        core_outline, oedema_outline: Smooth noise that makes the outlines irregular.
    """

    centre: Shape
    core_mm: float
    oedema_ratio: float
    rim_mm: float
    core_outline: Field
    oedema_outline: Field


def smooth_noise(rng: np.random.Generator, shape: Shape, sigma: float) -> Field:
    """Gaussian noise smoothed with ``sigma`` voxels, of mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape), sigma, mode="reflect")
    noise -= noise.mean()
    return noise / noise.std()


def make_brain(rng: np.random.Generator, shape: Shape) -> Brain:
    """A brain with folds of its own.

    Args:
        shape: At least 16 voxels a side.
    """
    side = min(shape)
    u, v, w = _brain_coordinates(rng, shape)
    inside = _largest_piece(u**2 + v**2 + w**2 < 1)
    depth = ndimage.distance_transform_edt(inside)
    folds = np.abs(smooth_noise(rng, shape, max(0.042 * side, 1.0)))
    # the zero level of smooth noise is a system of curved sheets, as sulci are
    sulci = (folds < 0.22) & (depth < _SULCUS_DEPTH * depth.max())
    fissure = (np.abs(u) < 0.035) & (depth < 0.6 * depth.max()) & (w > -0.3)
    ventricles = _ventricles(u, v, w)
    liquid = inside & (sulci | fissure | (depth <= 1))
    to_liquid = ndimage.distance_transform_edt(~liquid)
    grey = inside & ~liquid & ((to_liquid <= _CORTEX_MM) | _deep_nuclei(u, v, w))
    white = inside & ~liquid & ~grey
    csf = (liquid | ventricles) & inside
    parts = np.stack([csf, grey & ~ventricles, white & ~ventricles]).astype(np.float64)
    # partial volume: each voxel sees a little of its neighbours
    blurred = np.stack([ndimage.gaussian_filter(part, 0.55) for part in parts])
    total = np.maximum(blurred.sum(axis=0), 1e-6)
    return Brain(inside, np.where(inside, blurred / total, 0.0), depth)


def plan_tumour(
    rng: np.random.Generator, brain: Brain, *, enhancing: bool, rim_mm: tuple[float, float]
) -> TumourPlan:
    """Draw place, size and outline of a tumour.

    Args:
        enhancing: Without enhancement the core is also small and has no rim.
        rim_mm: Range of the rim's thickness.
    """
    shape: Shape = brain.inside.shape
    side = min(shape)
    core = rng.uniform(0.13, 0.19) * side if enhancing else rng.uniform(0.07, 0.09) * side
    ratio = rng.uniform(1.45, 1.9) if enhancing else rng.uniform(2.4, 3.0)
    wanted = min(core * 1.15, 0.8 * brain.depth_mm.max())
    places = np.argwhere((brain.depth_mm >= wanted) & (brain.fractions[0] < 0.5))
    if len(places) == 0:
        places = np.argwhere(brain.depth_mm >= wanted)
    x, y, z = (int(i) for i in places[rng.integers(len(places))])
    return TumourPlan(
        centre=(x, y, z),
        core_mm=core,
        oedema_ratio=ratio,
        rim_mm=rng.uniform(*rim_mm) if enhancing else 0.0,
        core_outline=smooth_noise(rng, shape, 0.07 * side),
        oedema_outline=smooth_noise(rng, shape, 0.07 * side),
    )


def grow_tumour(plan: TumourPlan, brain: Brain, growth: float = 1.0) -> npt.NDArray[np.uint8]:
    """Tissue map of the tumour: 0 and :data:`NECROSIS`, :data:`OEDEMA`, :data:`ENHANCING`.

    Args:
        growth: Factor of the radii, to make a later visit.
    """
    grid = np.ogrid[tuple(slice(0, n) for n in brain.inside.shape)]
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(grid, plan.centre, strict=True)))
    radius = plan.core_mm * growth
    core = distance + 0.2 * radius * plan.core_outline < radius
    core |= distance < _SMALLEST_CORE_MM
    core = _piece_at(core & (brain.depth_mm > 1), plan.centre)
    # oedema spreads along white matter and stops at CSF
    reach = radius * plan.oedema_ratio * (0.8 + 0.2 * brain.fractions[2])
    oedema = distance + 0.2 * radius * plan.oedema_ratio * plan.oedema_outline < reach
    oedema &= (brain.fractions[0] < 0.5) & (brain.depth_mm > 1)
    tumour = _piece_at(ndimage.binary_opening(oedema) | core, plan.centre)
    tissue = np.where(tumour, OEDEMA, BACKGROUND).astype(np.uint8)
    tissue[core] = ENHANCING if plan.rim_mm else NECROSIS
    if plan.rim_mm:
        to_edge = ndimage.distance_transform_edt(core)
        # a core too small for its rim keeps a spot of necrosis
        tissue[to_edge > min(plan.rim_mm, to_edge.max() - 0.5)] = NECROSIS
    return tissue


def _brain_coordinates(rng: np.random.Generator, shape: Shape) -> tuple[Field, Field, Field]:
    """Coordinates in which the brain is the unit ball: towards left, posterior, superior."""
    axes = [
        (np.arange(n) - (n - 1) / 2) / (share * n)
        for n, share in zip(shape, _HALF_WIDTHS, strict=True)
    ]
    u, v, w = np.meshgrid(*axes, indexing="ij")
    warp = 1 + 0.035 * smooth_noise(rng, shape, 0.18 * min(shape))
    scale = rng.uniform(0.94, 1.0, size=3)
    narrow = 1 + 0.09 * v  # frontal lobes are narrower
    flat = np.where(w < 0, 0.82, 1.0)  # and the base of the brain is flat
    return u * warp / (scale[0] * narrow), v * warp / scale[1], w * warp / (scale[2] * flat)


def _ventricles(u: Field, v: Field, w: Field) -> Mask:
    """Two lateral horns that part towards the back."""
    centre = 0.12 + 0.25 * np.maximum(v, 0) ** 2 + 0.12 * v**2
    horns = ((np.abs(u) - centre) / 0.09) ** 2 + ((v - 0.02) / 0.5) ** 2
    return horns + ((w - 0.16 + 0.25 * v**2) / 0.2) ** 2 < 1


def _deep_nuclei(u: Field, v: Field, w: Field) -> Mask:
    side = np.abs(u)
    thalamus = ((side - 0.17) / 0.13) ** 2 + ((v - 0.08) / 0.2) ** 2 + ((w + 0.12) / 0.15) ** 2
    putamen = ((side - 0.43) / 0.09) ** 2 + ((v + 0.1) / 0.27) ** 2 + ((w + 0.08) / 0.2) ** 2
    return (thalamus < 1) | (putamen < 1)


def _largest_piece(mask: Mask) -> Mask:
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return pieces == sizes.argmax()


def _piece_at(mask: Mask, place: Shape) -> Mask:
    """The connected piece of ``mask`` that holds a voxel, which is added when it is missing."""
    mask[place] = True
    pieces, _ = ndimage.label(mask)
    return pieces == pieces[place]
