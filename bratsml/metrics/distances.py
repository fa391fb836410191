"""Distances from the points of one surface to the nearest of another, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from bratsml.geometry import Spacing
from bratsml.metrics.surface_points import SurfacePoints

Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Distances:
    """Distances in mm from every point of one surface to the other; weights as in the points."""

    mm: Floats
    weights: Floats


Both = tuple[Distances, Distances]
"""From one surface to the other, and back."""


def percentile_of_voxels(both: Both, percent: float) -> float:
    """Percentile (0 to 100) in each direction, every point counting the same; the larger.

    Linear interpolation between the two nearest ranks, as MONAI and NumPy do it.
    """
    return max(float(np.percentile(one.mm, percent)) for one in both)


def percentile_of_area(both: Both, percent: float) -> float:
    """Distance within which this share of the area lies, in each direction; the larger.

    No interpolation: the distance of the first point, nearest first, with which the share is
    reached.
    """
    return max(_reached(one, percent / 100) for one in both)


def mean_distance(both: Both) -> float:
    """Mean over the points of both surfaces together, by weight."""
    mm = np.concatenate([one.mm for one in both])
    weights = np.concatenate([one.weights for one in both])
    return float(np.average(mm, weights=weights))


def share_within(both: Both, tolerance_mm: float) -> float:
    """Share of both surfaces together that is at most that far from the other, 0 to 1."""
    near = sum(one.weights[one.mm <= tolerance_mm].sum() for one in both)
    return float(near / sum(one.weights.sum() for one in both))


def mean_share_within(both: Both, tolerance_mm: float) -> float:
    """Mean of the two surfaces' shares that are at most that far from the other, 0 to 1."""
    shares = (one.weights[one.mm <= tolerance_mm].sum() / one.weights.sum() for one in both)
    return float(sum(shares) / 2)


def _reached(one: Distances, share: float) -> float:
    order = np.argsort(one.mm, kind="stable")
    reached = np.cumsum(one.weights[order]) / one.weights.sum()
    place = int(np.searchsorted(reached, share))
    return float(one.mm[order[min(place, len(order) - 1)]])


class SurfacePair:
    """The distances between two surfaces, both ways, as wholes and instance by instance.

    The nearest points of the whole surfaces are found once. Where an instance is compared with
    another, a point whose nearest point belongs to that other needs no second search.
    """

    def __init__(self, first: SurfacePoints, second: SurfacePoints, spacing_mm: Spacing) -> None:
        self._sides = first, second
        self._spacing_mm = spacing_mm
        self._nearest = (
            nearest(first.positions, second.positions, spacing_mm),
            nearest(second.positions, first.positions, spacing_mm),
        )

    def whole(self) -> Both:
        """From the first surface to the second, and back; neither may be empty."""
        first, second = (
            Distances(mm, side.weights)
            for side, (mm, _) in zip(self._sides, self._nearest, strict=True)
        )
        return first, second

    def between(self, first: npt.NDArray[np.integer], second: npt.NDArray[np.integer]) -> Both:
        """As :meth:`whole`, for the instances with these labels alone."""
        ours, theirs = self._sides[0].of(first), self._sides[1].of(second)
        if ours.all() and theirs.all():
            return self.whole()
        return self._directed(0, ours, theirs), self._directed(1, theirs, ours)

    def _directed(
        self, side: int, start: npt.NDArray[np.bool_], target: npt.NDArray[np.bool_]
    ) -> Distances:
        every_mm, every_found = self._nearest[side]
        mm, found = every_mm[start], every_found[start]
        elsewhere = np.flatnonzero(~target[found])
        if elsewhere.size:
            points, others = self._sides[side], self._sides[1 - side]
            again = points.positions[np.flatnonzero(start)[elsewhere]]
            mm[elsewhere], _ = nearest(again, others.positions[target], self._spacing_mm)
        return Distances(mm, self._sides[side].weights[start])


def nearest(
    points: Positions, targets: Positions, spacing_mm: Spacing
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Distance in mm to the nearest target and its index, for each point.

    Args:
        points: Indices on the grid, shape ``(n, 3)``.
        targets: Shape ``(m, 3)``, ``m > 0``.
    """
    tree = cKDTree(targets * np.asarray(spacing_mm), balanced_tree=False, compact_nodes=False)
    _, found = tree.query(points * np.asarray(spacing_mm))
    # from whole numbers of voxels: no rounding of large coordinates, so 0.3 mm is not 0.30000001
    steps = (points - targets[found]) * np.asarray(spacing_mm)
    return np.sqrt((steps * steps).sum(axis=1)), found
