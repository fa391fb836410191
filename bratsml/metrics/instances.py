"""Lesions of a mask: which voxels count as one instance, and which instances touch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import cc3d
import numpy as np
import numpy.typing as npt

from bratsml.metrics import bits
from bratsml.metrics.masks import BoolVolume

Labels = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Instances:
    """The lesions of one mask.

    Attributes:
        labels, shape ``(X, Y, Z)``: Label of the lesion, 0 outside the mask.
        reach, shape ``(X, Y, Z)``: Label of the lesion that reaches the voxel once dilated, 0 where
            none does. Different lesions reach different voxels, not even diagonal neighbours.
        sizes, shape ``(num_labels + 1,)``: Voxels per label, 0 at 0 and for labels not in use.
    """

    labels: Labels
    reach: Labels
    sizes: npt.NDArray[np.int64]

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """Labels in use, ascending."""
        return np.flatnonzero(self.sizes)

    def without(self, labels: npt.NDArray[np.integer]) -> Instances:
        """Without the lesions of these labels."""
        kept = np.arange(len(self.sizes), dtype=np.int32)
        kept[labels] = 0
        return self.relabelled(kept)

    def relabelled(self, new: Labels) -> Instances:
        """Lesions that get the same new label become one.

        Args:
            new: New label of every label, shape ``(num_labels + 1,)``.
        """
        sizes = np.bincount(new, weights=self.sizes, minlength=len(new)).astype(np.int64)
        sizes[0] = 0
        return replace(self, labels=new[self.labels], reach=new[self.reach], sizes=sizes)


def find_instances(mask: BoolVolume, dilation: int) -> Instances:
    """26-connected components of the mask, or of what it grows to, brought back to its own voxels.

    Lesions that grow into, or next to, each other are one. They are numbered from 1 in the order of
    their first dilated voxel (C order).

    Args:
        mask: Shape ``(X, Y, Z)``.
        dilation: How often to grow by the 18-neighbourhood first.
    """
    if dilation == 0:
        reach = _components(mask)
        labels = reach
    else:
        x, y, z = mask.shape
        grown = bits.dilate(bits.pack(mask), (x, y, z), dilation)
        reach = _components(bits.unpack(grown, (x, y, z)))
        labels = np.where(mask, reach, np.int32(0))
    sizes = np.bincount(labels.reshape(-1))
    sizes[0] = 0
    return Instances(labels, reach, sizes)


def merge_by_partner(lesions: Instances, partners: Instances) -> Instances:
    """Make one of the lesions that touch the same lesion of another tissue.

    A lesion that touches several partners goes with the first of them in number, so two lesions may
    share a partner and stay apart.
    """
    if len(lesions.numbers) < 2:
        return lesions
    partner_of: dict[int, int] = {}
    leader_of: dict[int, int] = {}
    new = np.arange(len(lesions.sizes), dtype=np.int32)
    for lesion, partner in sorted(touching(lesions.labels, partners.labels)):
        if lesion not in partner_of:
            partner_of[lesion] = partner
            new[lesion] = leader_of.setdefault(partner, lesion)
    return lesions.relabelled(new)


def touching(first: Labels, second: Labels) -> set[tuple[int, int]]:
    """Pairs of labels whose voxels are neighbours by face or edge, or the same voxel.

    Args:
        first, second: Shape ``(X, Y, Z)``, 0 for background.
    """
    wide, other = np.pad(first, 1), np.pad(second, 1)
    x, y, z = wide.shape
    near = bits.dilate(bits.pack(wide != 0), (x, y, z), 1) & bits.pack(other != 0)
    places = bits.indices(near, (x, y, z))
    theirs = other.reshape(-1)[places]
    pairs: set[tuple[int, int]] = set()
    for i, j, k in product((-1, 0, 1), repeat=3):
        if abs(i) + abs(j) + abs(k) > 2:
            continue  # neighbours by a corner only
        ours = wide.reshape(-1)[places + (i * y + j) * z + k]
        met = np.unique(np.stack([ours, theirs], axis=1)[ours > 0], axis=0)
        pairs.update((int(a), int(b)) for a, b in met)
    return pairs


def _components(mask: BoolVolume) -> Labels:
    """26-connected components, numbered from 1 by their first voxel in C order."""
    labels = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26)
    return labels.astype(np.int32, copy=False)
