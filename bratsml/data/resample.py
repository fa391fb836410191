"""Interpolation on regular grids, one axis after the other (linear interpolation is separable).

Positions are in voxels of the input: 0 is the centre of its first voxel. Beyond the outermost
centres the edge value holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from bratsml.geometry import Array, Reorientation, Shape, Spacing

Positions = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]


def memory_order(volume: Array) -> Reorientation:
    """The turn after which the axes of a 3-D view run from the slowest to the fastest, forwards.

    Views of NIfTI data turned to RAS run backwards and fastest first: work that does not care is
    several times faster in the order of the memory.
    """
    x, y, z = sorted(range(3), key=lambda axis: -abs(volume.strides[axis]))
    flips = (volume.strides[x] < 0, volume.strides[y] < 0, volume.strides[z] < 0)
    return Reorientation((x, y, z), flips)


def resize_positions(size_in: int, size_out: int) -> Positions:
    """Where ``size_out`` equal voxels that fill the same extent have their centres."""
    return (np.arange(size_out, dtype=np.float64) + 0.5) * (size_in / size_out) - 0.5


def respaced_size(size_in: int, spacing_in_mm: float, spacing_out_mm: float) -> int:
    """Voxels of the new spacing that best fill the same extent (at least one)."""
    return max(1, round(size_in * spacing_in_mm / spacing_out_mm))


def respaced_positions(
    size_in: int, size_out: int, spacing_in_mm: float, spacing_out_mm: float
) -> Positions:
    """Centres of ``size_out`` voxels of the new spacing, both grids sharing their middle."""
    offsets = np.arange(size_out, dtype=np.float64) - (size_out - 1) / 2
    return offsets * (spacing_out_mm / spacing_in_mm) + (size_in - 1) / 2


def respaced_shape(shape: Shape, spacing_mm: Spacing, target_mm: float) -> Shape:
    """:func:`respaced_size` along each axis."""
    x, y, z = (respaced_size(n, mm, target_mm) for n, mm in zip(shape, spacing_mm, strict=True))
    return x, y, z


def resize(array: Array, shape: Shape, *, linear: bool) -> Array:
    """The last three axes brought to ``shape``, same extent.

    Linear values equal ``torch.nn.functional.interpolate(mode="trilinear")`` without aligned
    corners, nearest ones its ``nearest-exact``.
    """
    sizes = zip(array.shape[-3:], shape, strict=True)
    return sample(array, [resize_positions(a, b) for a, b in sizes], linear=linear)


def respace(
    array: Array, spacing_mm: Spacing, shape: Shape, target_mm: Spacing, *, linear: bool
) -> Array:
    """The last three axes on a grid of ``shape`` and ``target_mm`` with the same middle."""
    axes = zip(array.shape[-3:], shape, spacing_mm, target_mm, strict=True)
    return sample(array, [respaced_positions(*axis) for axis in axes], linear=linear)


def sample(array: Array, positions: Sequence[Positions], *, linear: bool) -> Array:
    """Values at every combination of the three axes' positions.

    Args:
        array: Shape ``(..., X, Y, Z)``; with ``linear`` it is computed in float32.
        positions: One array per axis, in voxels of the input.
        linear: Interpolate; otherwise take the nearest voxel, keeping the type.

    Returns:
        Shape ``(..., len(positions[0]), len(positions[1]), len(positions[2]))``, C order.
    """
    if not linear:
        for axis in range(3):
            last = array.shape[axis - 3] - 1
            nearest = np.clip(np.floor(positions[axis] + 0.5), 0, last).astype(np.intp)
            array = np.take(array, nearest, axis=axis - 3)
        return array
    result = np.empty((*array.shape[:-3], *map(len, positions)), dtype=np.float32)
    for lead in np.ndindex(array.shape[:-3]):
        _interpolate(cast(Floats, array[lead]), positions, result[lead])
    return result


@dataclass(frozen=True)
class _Axis:
    """The two input voxels beside each position, and how far the position is from the first."""

    below: npt.NDArray[np.intp]
    above: npt.NDArray[np.intp]
    weight: Floats

    @classmethod
    def at(cls, positions: Positions, size: int) -> _Axis:
        inside = np.clip(positions, 0, size - 1)
        below = np.minimum(np.floor(inside).astype(np.intp), max(size - 2, 0))
        above = np.minimum(below + 1, size - 1)
        return cls(below, above, (inside - below).astype(np.float32))

    def along_rows(self, plane: Floats) -> Floats:
        """Interpolate the first axis of a plane."""
        low = plane.take(self.below, axis=0)
        step = plane.take(self.above, axis=0)
        step -= low
        step *= self.weight[:, None]
        low += step
        return low


def _interpolate(volume: Floats, positions: Sequence[Positions], out: Floats) -> None:
    """Fill ``out``, plane by plane in the volume's memory order.

    A plane stays in the processor's cache through all three axes; whole volumes would go through
    memory a dozen times.
    """
    layout = memory_order(volume)
    source, target = layout.apply(volume), layout.apply(out)
    first, middle, last = (
        _Axis.at(_against(positions[axis], volume.shape[axis]) if flip else positions[axis], n)
        for axis, flip, n in zip(layout.permutation, layout.flips, source.shape, strict=True)
    )
    for i, (below, above, weight) in enumerate(
        zip(middle.below, middle.above, middle.weight, strict=True)
    ):
        plane = source[:, below] * (1 - weight)
        if weight:
            plane += source[:, above] * weight
        columns = np.ascontiguousarray(first.along_rows(plane).T)
        target[:, i] = last.along_rows(columns).T


def _against(positions: Positions, size: int) -> Positions:
    """The positions on an axis that is counted from its other end."""
    return (size - 1 - positions)[::-1]
