"""Lesions of a mask: which voxels count as one instance, and which instances touch."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import cc3d
import numpy as np
import numpy.typing as npt

from bratsml.geometry import Shape
from bratsml.metrics import bits
from bratsml.metrics.masks import BoolVolume

Labels = npt.NDArray[np.integer]
"""Labels from 1, 0 for background."""


@dataclass(frozen=True)
class Instances:
    """The lesions of one mask.

    Attributes:
        shape: Of the volume.
        places, shape ``(n,)``: Flat indices (C order) of the voxels in the mask, ascending.
        labels, shape ``(n,)``: Label of the lesion there, from 1.
        sizes, shape ``(num_labels + 1,)``: Voxels per label, 0 for labels not in use.
        components, shape ``(X, Y, Z)``: Component of the dilated mask that the voxel is in, or 0.
            Different components are not even diagonal neighbours.
        label_of, shape ``(num_components + 1,)``: Label of the lesion made from each component.
    """

    shape: Shape
    places: npt.NDArray[np.int64]
    labels: Labels
    sizes: npt.NDArray[np.int64]
    components: Labels
    label_of: Labels

    @property
    def numbers(self) -> npt.NDArray[np.int64]:
        """Labels in use, ascending."""
        return np.flatnonzero(self.sizes)

    def reaching(self, places: npt.NDArray[np.int64]) -> Labels:
        """Label of the lesion that, once dilated, reaches each place; 0 where none does."""
        return self.label_of[self.components.reshape(-1)[places]]

    def volume(self) -> Labels:
        """Labels as a volume of shape ``(X, Y, Z)``, 0 outside the mask."""
        volume = np.zeros(self.shape, np.int32)
        volume.reshape(-1)[self.places] = self.labels
        return volume

    def without(self, labels: npt.NDArray[np.integer]) -> Instances:
        """Without the lesions of these labels."""
        kept = np.arange(len(self.sizes), dtype=np.int32)
        kept[labels] = 0
        return self.relabelled(kept)

    def relabelled(self, new: Labels) -> Instances:
        """Lesions that get the same new label become one; those that get 0 vanish.

        Args:
            new: New label of every label, shape ``(num_labels + 1,)``.
        """
        labels = new[self.labels]
        kept = labels > 0
        return Instances(
            self.shape,
            self.places[kept],
            labels[kept],
            np.bincount(labels[kept], minlength=len(new)),
            self.components,
            new[self.label_of],
        )


def find_instances(mask: BoolVolume, dilation: int) -> Instances:
    """26-connected components of the mask, or of what it grows to, brought back to its own voxels.

    Lesions that grow into each other, or next to each other, are one. They are numbered from 1 in
    the order of their first dilated voxel (C order).

    Args:
        mask: Shape ``(X, Y, Z)``.
        dilation: How often to grow by the 18-neighbourhood first.
    """
    x, y, z = mask.shape
    words = bits.pack(mask)
    places = bits.indices(words, (x, y, z))
    grown = bits.unpack(bits.dilate(words, (x, y, z), dilation), (x, y, z)) if dilation else mask
    components = _components(grown)
    labels = components.reshape(-1)[places]
    sizes = np.bincount(labels, minlength=1)
    own = np.arange(len(sizes), dtype=np.int32)
    return Instances((x, y, z), places, labels, sizes, components, own)


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
    for lesion, partner in sorted(touching(lesions.volume(), partners.volume())):
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
    if 1 in mask.shape:  # cc3d 4.1.1 reserves too few labels for a single row of voxels
        return _components(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    labels: Labels = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=26)
    return labels
