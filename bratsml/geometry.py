"""Where voxels lie: grids, crop boxes and the turn of a volume into RAS+ axis order.

Arrays are ``(..., X, Y, Z)``: every function acts on the last three axes and leaves the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import nibabel.orientations as orientations
import numpy as np
import numpy.typing as npt

Shape = tuple[int, int, int]
"""Number of voxels along X, Y, Z."""
Spacing = tuple[float, float, float]
"""Voxel size in millimetres along X, Y, Z."""
Affine = npt.NDArray[np.float64]
"""Matrix of shape ``(4, 4)`` from voxel indices to millimetres in RAS+."""
Array = npt.NDArray[np.generic]


def spacing_mm_of(affine: Affine) -> Spacing:
    """Voxel sizes in millimetres: the lengths of the affine's three columns."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


@dataclass(frozen=True)
class CropBox:
    """A box of voxels, ``start`` included and ``stop`` excluded."""

    start: Shape
    stop: Shape

    @property
    def shape(self) -> Shape:
        """Voxels along each axis."""
        x, y, z = (b - a for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as slices of the last three axes."""
        x, y, z = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    @classmethod
    def around(cls, mask: npt.NDArray[np.bool_], margin_voxels: int = 0) -> CropBox | None:
        """Smallest box that holds every true voxel, widened by the margin within the volume.

        Returns ``None`` for an empty mask.
        """
        start, stop = [], []
        for axis in range(3):
            others = tuple(other for other in range(3) if other != axis)
            hits = np.flatnonzero(mask.any(axis=others))
            if hits.size == 0:
                return None
            start.append(max(int(hits[0]) - margin_voxels, 0))
            stop.append(min(int(hits[-1]) + 1 + margin_voxels, mask.shape[axis]))
        return cls((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

    def crop(self, array: Array) -> Array:
        """View of the box within ``array``."""
        return array[(..., *self.slices)]

    def paste(self, cropped: Array, full_shape: Shape) -> Array:
        """Undo :meth:`crop`: a zero volume of ``full_shape`` with ``cropped`` in its place."""
        full = np.zeros((*cropped.shape[:-3], *full_shape), dtype=cropped.dtype)
        full[(..., *self.slices)] = cropped
        return full


@dataclass(frozen=True)
class Reorientation:
    """Axis permutation and flips that bring a volume to the closest RAS+ order, and back.

    Attributes:
        permutation: RAS axis ``i`` is axis ``permutation[i]`` of the original.
        flips: Whether RAS axis ``i`` runs against the original direction.
    """

    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @classmethod
    def to_ras(cls, affine: Affine) -> Reorientation:
        """The turn that the affine calls for; the affine must be finite and non-singular."""
        table = orientations.io_orientation(affine)  # row: original axis -> (RAS axis, direction)
        original = [int(np.flatnonzero(table[:, 0] == axis)[0]) for axis in range(3)]
        flips = [bool(table[axis, 1] < 0) for axis in original]
        return cls((original[0], original[1], original[2]), (flips[0], flips[1], flips[2]))

    def apply(self, array: Array) -> Array:
        """View of ``array`` with its last three axes in RAS+ order."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + axis for axis in self.permutation))
        return np.flip(turned, axis=tuple(lead + i for i in range(3) if self.flips[i]))

    def undo(self, array: Array) -> Array:
        """Inverse of :meth:`apply`, exact for every array."""
        lead = array.ndim - 3
        unflipped = np.flip(array, axis=tuple(lead + i for i in range(3) if self.flips[i]))
        inverse = np.argsort(self.permutation)
        return unflipped.transpose(*range(lead), *(lead + int(axis) for axis in inverse))

    def ras_affine(self, affine: Affine, shape: Shape) -> Affine:
        """Affine of the turned volume, given the original's affine and shape."""
        turn = np.zeros((4, 4))
        turn[3, 3] = 1.0
        for ras_axis, (original, flip) in enumerate(zip(self.permutation, self.flips, strict=True)):
            turn[original, ras_axis] = -1.0 if flip else 1.0
            turn[original, 3] = shape[original] - 1 if flip else 0.0
        return affine @ turn
