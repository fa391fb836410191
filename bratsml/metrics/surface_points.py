"""What the surface of a mask consists of: its boundary voxels, or elements with an area.

Two definitions are in use, and they give different distances:

- ``"voxels"``: the voxels with a face neighbour outside the mask or outside the volume, each
  counting the same (MONAI, medpy, nnU-Net).
- ``"elements"``: the corners at which voxels inside and outside meet; each counts by the area of
  the piece of surface that marching cubes (Lorensen and Cline 1987) lays around it. The definition
  of ``surface-distance`` (Nikolov et al. 2018, arXiv 1809.04430) and so of the BraTS challenges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import permutations, product
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from bratsml.geometry import Spacing
from bratsml.metrics import bits

SurfaceKind = Literal["voxels", "elements"]

Normal = tuple[int, int, int]

# The surface within a cube of 2 x 2 x 2 voxels. One line for each arrangement that is not a turn, a
# mirror image or the complement of another: the voxels inside, and the normals of the pieces of
# surface between them and the rest. A normal is as long as its piece has area, in eighths of a
# voxel face; its sign does not matter.
_CUT: Normal = (1, 1, 1)  # the triangle that cuts off a corner
_ARRANGEMENTS: tuple[tuple[str, tuple[Normal, ...]], ...] = (
    ("111", (_CUT,)),
    ("110 111", ((4, 4, 0),)),
    ("101 110", (_CUT,) * 2),
    ("011 100", (_CUT,) * 2),
    ("101 110 111", (_CUT, _CUT, _CUT, (4, 0, 0))),
    ("011 101 110", (_CUT,) * 3),
    ("011 100 111", (_CUT, (0, 4, 4))),
    ("100 101 110 111", ((8, 0, 0),)),
    ("011 101 110 111", (_CUT,) * 6),
    ("011 100 110 111", ((_CUT,) * 4 + ((0, 2, 2), (2, 0, 2)))),
    ("011 100 101 110", ((_CUT,) * 4 + ((4, 0, 0),))),
    ("010 011 100 101", ((4, 4, 0),) * 2),
    ("001 010 100 111", (_CUT,) * 4),
)
_CUBE = tuple(product((0, 1), repeat=3))


@dataclass(frozen=True, eq=False)
class SurfacePoints:
    """The surface of a labelled mask, of all its instances at once.

    An instance's surface is that of the instance alone: no cube of 2 x 2 x 2 voxels, and no voxel
    with its neighbours, holds voxels of two instances, since these are not even diagonal
    neighbours.

    Attributes:
        positions, shape ``(n, 3)``: Voxel or corner indices.
        weights, shape ``(n,)``: 1 for a voxel, mm2 for an element.
        owners, shape ``(n,)``: Label of the instance.
    """

    positions: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    owners: npt.NDArray[np.integer]
    _trees: list[cKDTree] = field(default_factory=list, repr=False, compare=False)

    def part(self, labels: npt.NDArray[np.integer]) -> SurfacePoints:
        """The surface of the instances with these labels; the same object if these are all."""
        last = max(int(self.owners.max(initial=0)), int(labels.max(initial=0)))
        wanted = np.zeros(last + 1, bool)
        wanted[labels] = True
        chosen = wanted[self.owners]
        if chosen.all():
            return self
        return SurfacePoints(self.positions[chosen], self.weights[chosen], self.owners[chosen])

    def tree(self, spacing_mm: Spacing) -> cKDTree:
        """Tree of the points in mm, built when first asked for; ask with one spacing only."""
        if not self._trees:
            places_mm = self.positions * np.asarray(spacing_mm)
            # much faster to build, and on surfaces no slower to search
            self._trees.append(cKDTree(places_mm, balanced_tree=False, compact_nodes=False))
        return self._trees[0]


def surface_points(
    labels: npt.NDArray[np.integer], spacing_mm: Spacing, kind: SurfaceKind
) -> SurfacePoints:
    """Points of the surface between background and the rest.

    Args:
        labels: Shape ``(X, Y, Z)``, 0 for background; different labels are not even diagonal
            neighbours of each other.
    """
    return _voxels(labels) if kind == "voxels" else _elements(labels, spacing_mm)


def _voxels(labels: npt.NDArray[np.integer]) -> SurfacePoints:
    x, y, z = labels.shape
    flat = bits.indices(bits.boundary(bits.pack(labels != 0)), (x, y, z))
    positions = np.stack(np.unravel_index(flat, labels.shape), axis=1)
    return SurfacePoints(positions, np.ones(len(flat)), labels.reshape(-1)[flat])


def _elements(labels: npt.NDArray[np.integer], spacing_mm: Spacing) -> SurfacePoints:
    # one empty plane around, so that every corner has eight voxels around it
    padded = np.pad(labels, 1)
    x, y, z = padded.shape
    flat = bits.indices(bits.mixed_corners(bits.pack(padded != 0)), (x, y, z))
    codes, owners = np.zeros(len(flat), np.uint8), np.zeros(len(flat), labels.dtype)
    around = padded.reshape(-1)
    for bit, (i, j, k) in enumerate(_CUBE):
        # corner (a, b, c) lies between voxels a - 1 and a
        label = around[flat + (i - 1) * y * z + (j - 1) * z + (k - 1)]
        codes |= (label != 0).astype(np.uint8) << np.uint8(bit)
        np.maximum(owners, label, out=owners)
    positions = np.stack(np.unravel_index(flat, padded.shape), axis=1)
    return SurfacePoints(positions, element_areas_mm2(spacing_mm)[codes], owners)


@lru_cache(maxsize=64)
def element_areas_mm2(spacing_mm: Spacing) -> npt.NDArray[np.float64]:
    """Area of the surface within a cube of 2 x 2 x 2 voxels, in mm2.

    Returns:
        Shape ``(256,)``; bit ``4 i + 2 j + k`` of the index is set if voxel ``(i, j, k)`` is in the
        mask.
    """
    x, y, z = spacing_mm
    faces_mm2 = np.array([y * z, x * z, x * y])
    areas = np.zeros(256)
    for inside, normals in _ARRANGEMENTS:
        voxels = [tuple(int(digit) for digit in voxel) for voxel in inside.split()]
        for axes, mirrored in product(permutations(range(3)), product((0, 1), repeat=3)):
            code = sum(
                1 << _CUBE.index(tuple(voxel[axis] ^ mirrored[axis] for axis in axes))
                for voxel in voxels
            )
            turned = np.array(normals)[:, list(axes)] / 8
            areas[code] = areas[255 - code] = np.linalg.norm(turned * faces_mm2, axis=1).sum()
    areas.flags.writeable = False
    return areas
