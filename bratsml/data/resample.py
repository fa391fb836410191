"""Interpolation on regular grids, one axis after the other (linear interpolation is separable).

Positions are in voxels of the input: 0 is the centre of its first voxel. Beyond the outermost
centres the edge value holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bratsml.geometry import Array, Shape, Spacing

Positions = npt.NDArray[np.float64]


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
    """
    # Shrinking axes first: what follows then works on less.
    order = sorted(range(3), key=lambda i: len(positions[i]) / array.shape[i - 3])
    for axis in order:
        array = _sample_axis(array, positions[axis], axis - 3, linear)
    return array


def _sample_axis(array: Array, positions: Positions, axis: int, linear: bool) -> Array:
    last = array.shape[axis] - 1
    if len(positions) == last + 1 and np.allclose(positions, np.arange(last + 1), atol=1e-9):
        return array
    if not linear:
        nearest = np.clip(np.floor(positions + 0.5), 0, last).astype(np.intp)
        return np.take(array, nearest, axis=axis)
    clipped = np.clip(positions, 0, last)
    below = np.minimum(np.floor(clipped).astype(np.intp), max(last - 1, 0))
    above = np.minimum(below + 1, last)
    along = (-1, *(1,) * (-axis - 1))
    weight = (clipped - below).astype(np.float32).reshape(along)
    values = array.astype(np.float32, copy=False)
    low = np.take(values, below, axis=axis)
    step = np.take(values, above, axis=axis)
    step -= low
    step *= weight
    low += step
    return low
