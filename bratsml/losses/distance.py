"""Exact Euclidean distances to a mask, in voxels, where the mask is."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor


@torch.no_grad()
def distance_to(mask: Tensor) -> Tensor:
    """Distance of every voxel to the nearest set voxel of its volume, in voxels.

    SciPy on a CPU; on a GPU one dense minimum per axis, which spares the copy to the host.

    Args:
        mask: Booleans ``(N, C, X, Y, Z)``.

    Returns:
        Float32 of the same shape; infinite throughout a volume without a set voxel.
    """
    if mask.device.type == "cpu":
        return _by_scipy(mask)
    return _by_minima(mask)


def _by_scipy(mask: Tensor) -> Tensor:
    out = np.full(mask.shape, np.inf, dtype=np.float32)
    for place in np.ndindex(*mask.shape[:2]):
        volume = mask[place].numpy()
        if volume.any():
            out[place] = ndimage.distance_transform_edt(~volume)
    return torch.from_numpy(out)


def _by_minima(mask: Tensor) -> Tensor:
    """Squared distance along one axis after the other (Saito & Toriwaki 1994)."""
    squared = torch.where(mask, 0.0, torch.inf)
    for axis in (2, 3, 4):
        length = mask.shape[axis]
        shape = [1] * 5
        shape[axis] = length
        place = torch.arange(length, dtype=torch.float32, device=mask.device).reshape(shape)
        nearest = torch.full_like(squared, torch.inf)
        for index in range(length):
            there = squared.narrow(axis, index, 1)
            torch.minimum(nearest, there + (place - index) ** 2, out=nearest)
        squared = nearest
    return squared.sqrt()
