"""Where a training patch lies in a case, and reading just that much of the stored array.

Starts may be negative and patches may stick out where the case is smaller than the patch; what lies
outside the case is 0, which is background in images and label maps alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from bratsml.geometry import Array, Shape

Foreground = Mapping[str, npt.NDArray[np.int64]]
"""Region to flat C-order indices of stored voxels within it; empty where the region has none."""


def start_limits(shape: Shape, patch: Shape) -> list[tuple[int, int]]:
    """Lowest and highest start of a patch along each axis, both included.

    Along an axis that is long enough the patch stays inside the case; otherwise the case stays
    inside the patch.
    """
    return [
        (min(0, side - length), max(0, side - length))
        for side, length in zip(shape, patch, strict=True)
    ]


def random_start(shape: Shape, patch: Shape, rng: np.random.Generator) -> Shape:
    """Start of a patch placed uniformly within :func:`start_limits`."""
    x, y, z = (int(rng.integers(low, high + 1)) for low, high in start_limits(shape, patch))
    return x, y, z


def start_around(
    voxel: Sequence[int], shape: Shape, patch: Shape, jitter: float, rng: np.random.Generator
) -> Shape:
    """Start of a patch centred on a voxel, shifted at random, moved back within the limits.

    Args:
        jitter: Largest shift along each axis as a share of the patch side, at most 0.5 less one
            voxel, so that the voxel stays in the patch.
    """
    starts = []
    for axis, (low, high) in enumerate(start_limits(shape, patch)):
        reach = min(int(jitter * patch[axis]), (patch[axis] - 1) // 2)
        shift = int(rng.integers(-reach, reach + 1))
        starts.append(min(max(voxel[axis] - patch[axis] // 2 + shift, low), high))
    x, y, z = starts
    return x, y, z


def random_foreground_voxel(
    foreground: Foreground, shape: Shape, rng: np.random.Generator
) -> tuple[int, int, int] | None:
    """A stored voxel of a region drawn among those present, or ``None`` when there is none.

    Each region is equally likely, so small ones are seen as often as large ones.
    """
    present = sorted(region for region, indices in foreground.items() if len(indices))
    if not present:
        return None
    indices = foreground[present[int(rng.integers(len(present)))]]
    x, y, z = np.unravel_index(int(indices[int(rng.integers(len(indices)))]), shape)
    return int(x), int(y), int(z)


def read_patch(stored: Array, start: Shape, patch: Array) -> None:
    """Fill ``patch`` with the part of ``stored`` that begins at ``start``, zeros outside.

    Only the voxels of the patch are read from a memory map, and they are converted to the type of
    ``patch`` on the way, exactly (float16 to float32) or not at all.

    Args:
        stored: Array of shape ``(..., X, Y, Z)``.
        start: First voxel, may be negative.
        patch: Written to; shape ``(..., x, y, z)`` with the leading axes of ``stored``.
    """
    source: list[slice] = []
    target: list[slice] = []
    for first, side, length in zip(start, stored.shape[-3:], patch.shape[-3:], strict=True):
        begin = max(first, 0)
        end = max(min(first + length, side), begin)
        source.append(slice(begin, end))
        target.append(slice(begin - first, end - first))
    whole = all(box == slice(0, n) for box, n in zip(target, patch.shape[-3:], strict=True))
    if not whole:
        patch[...] = 0
    x, y, z = target
    u, v, w = source
    # torch converts float16 several times faster than NumPy
    torch.from_numpy(patch)[..., x, y, z].copy_(_readable(stored)[..., u, v, w])


def _readable(stored: Array) -> torch.Tensor:
    """The array as a tensor; it may be read-only, and nobody writes to it here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(stored)
