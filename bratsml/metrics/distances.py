"""Distances from the points of one surface to the nearest of another, and what is made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bratsml.geometry import Spacing
from bratsml.metrics.surface_points import SurfaceKind, SurfacePoints

Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]

_CELLS = (8, 4, 2)
_BIN_MM = 0.25
_ROUNDING_MM = 1e-9


@dataclass(frozen=True)
class Distances:
    """Distance in mm from every point of one surface to the other, and the points' weights."""

    mm: Floats
    weights: Floats


Both = tuple[Distances, Distances]
"""From one surface to the other, and back."""


def measure(
    first: SurfacePoints, second: SurfacePoints, spacing_mm: Spacing, limit_mm: float = math.inf
) -> Both:
    """Distances both ways; those above the limit may be given as infinite, which is faster."""
    return (
        Distances(nearest(first.positions, second, spacing_mm, limit_mm), first.weights),
        Distances(nearest(second.positions, first, spacing_mm, limit_mm), second.weights),
    )


def nearest(
    positions: Positions, target: SurfacePoints, spacing_mm: Spacing, limit_mm: float = math.inf
) -> Floats:
    """Distance in mm from each position to the nearest point of the target.

    Args:
        positions: Indices on the grid, shape ``(n, 3)``.
        target: Not empty.
        limit_mm: Distances above it may be given as infinite.
    """
    mm_per_voxel = np.asarray(spacing_mm)
    # the tree looks strictly below its bound, in rounded coordinates
    bound = limit_mm + 1e-6 * max(spacing_mm)
    mm, found = target.tree(spacing_mm).query(positions * mm_per_voxel, distance_upper_bound=bound)
    seen = np.isfinite(mm)
    # again from whole numbers of voxels: 0.3 mm is then not 0.30000001
    steps = (positions[seen] - target.positions[found[seen]]) * mm_per_voxel
    mm[seen] = np.sqrt((steps * steps).sum(axis=1))
    return mm


def hausdorff_of(
    first: SurfacePoints,
    second: SurfacePoints,
    spacing_mm: Spacing,
    percent: float,
    kind: SurfaceKind,
) -> float:
    """Percentile (0 to 100) of the distances in each direction; the larger of the two, in mm.

    Over voxels every point counts the same, with linear interpolation between ranks (MONAI, NumPy).
    Over elements each counts by its area, without interpolation: the distance of the first point,
    nearest first, with which that share of the area is reached (surface-distance).
    """
    return max(
        _directed(first, second, spacing_mm, percent, kind),
        _directed(second, first, spacing_mm, percent, kind),
    )


def percentile(both: Both, percent: float, kind: SurfaceKind) -> float:
    """As :func:`hausdorff_of`, from distances that are known."""
    return max(_rank(one.mm, one.weights, percent, kind) for one in both)


def mean_distance(both: Both) -> float:
    """Mean over the points of both surfaces together, by weight."""
    mm = np.concatenate([one.mm for one in both])
    weights = np.concatenate([one.weights for one in both])
    return float(np.average(mm, weights=weights))


def share_within(both: Both, tolerance_mm: float) -> float:
    """Share of both surfaces together that is at most that far from the other, 0 to 1."""
    near = sum(one.weights[one.mm <= tolerance_mm].sum() for one in both)
    return float(near / sum(one.weights.sum() for one in both))


def _directed(
    start: SurfacePoints,
    target: SurfacePoints,
    spacing_mm: Spacing,
    percent: float,
    kind: SurfaceKind,
) -> float:
    """The percentile, measuring no more distances than it takes.

    Two points differ in their distance to the target by no more than they are apart. So one point
    in each small cell bounds the others; they bound the percentile; and what cannot be the
    percentile is not looked at again. What comes out is the same number.
    """
    low, high = np.zeros(len(start.positions)), np.full(len(start.positions), np.inf)
    open_ = np.arange(len(low))
    for cell in _CELLS:
        positions = start.positions[open_]
        leader, leader_of = _leaders(positions, cell)
        mm = nearest(positions[leader], target, spacing_mm)[leader_of]
        apart = (positions - positions[leader[leader_of]]) * np.asarray(spacing_mm)
        slack = np.sqrt((apart * apart).sum(axis=1)) + _ROUNDING_MM
        low[open_] = np.maximum(low[open_], mm - slack)
        high[open_] = np.minimum(high[open_], mm + slack)
        lowest, highest = _bounds(low, high, start.weights, percent / 100)
        open_ = open_[(high[open_] >= lowest) & (low[open_] <= highest)]
    high[open_] = nearest(start.positions[open_], target, spacing_mm)
    return _rank(high, start.weights, percent, kind)


def _leaders(
    positions: Positions, cell: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """One point of each cell of so many voxels a side, and for every point the one of its cell.

    Returns:
        Indices of the leaders among the positions, and indices into these.
    """
    cells = positions // cell
    x, y, z = cells.max(axis=0) + 1
    numbers = (cells[:, 0] * y + cells[:, 1]) * z + cells[:, 2]
    last = np.full(x * y * z, -1)
    last[numbers] = np.arange(len(numbers))
    taken = np.flatnonzero(last >= 0)
    place = np.empty_like(last)
    place[taken] = np.arange(len(taken))
    return last[taken], place[numbers]


def _bounds(low: Floats, high: Floats, weights: Floats, share: float) -> tuple[float, float]:
    """Between which distances the share of the weight is reached, rounded outwards.

    Wide enough for the ranks on both sides of an interpolated percentile.
    """
    room = 2 / len(low) + 1e-9
    ends = []
    for values, wanted in ((low, share - room), (high, share + room)):
        bins = (values / _BIN_MM).astype(np.int64)
        reached = np.cumsum(np.bincount(bins, weights))
        ends.append(min(int(np.searchsorted(reached / reached[-1], wanted)), len(reached) - 1))
    return ends[0] * _BIN_MM, (ends[1] + 1) * _BIN_MM


def _rank(mm: Floats, weights: Floats, percent: float, kind: SurfaceKind) -> float:
    if kind == "voxels":
        return float(np.percentile(mm, percent))
    order = np.argsort(mm, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    place = int(np.searchsorted(reached, percent / 100))
    return float(mm[order[min(place, len(order) - 1)]])
