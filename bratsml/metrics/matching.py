"""The lesions of one region on both sides: which match, and how far they are from each other."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from bratsml.geometry import CropBox, Spacing
from bratsml.metrics import bits
from bratsml.metrics.distances import hausdorff_of
from bratsml.metrics.instances import Instances, Labels
from bratsml.metrics.surface_points import SurfacePoints, surface_points

Numbers = npt.NDArray[np.int64]


class MatchedLesions:
    """Predicted lesions and those of the reference in one region.

    Attributes:
        predicted, true: The lesions; a dilation is that of the reference.
        num_shared: Voxels in both masks.
    """

    def __init__(self, predicted: Instances, true: Instances, spacing_mm: Spacing) -> None:
        self.predicted, self.true = predicted, true
        self._spacing_mm = spacing_mm
        near = true.reaching(predicted.places).astype(np.int64)
        pairs = near * len(predicted.sizes) + predicted.labels
        near_and_found = np.divmod(np.unique(pairs[near > 0]), len(predicted.sizes))
        self._true_of_match, self._predicted_of_match = near_and_found
        # whatever overlaps a lesion also touches its dilation, so all of it is matched
        overlap = np.isin(true.places, predicted.places, assume_unique=True)
        self._shared = np.bincount(true.labels[overlap], minlength=len(true.sizes))
        self.num_shared = int(self._shared.sum())

    def matched_by(self, lesion: int) -> Numbers:
        """Numbers of the predicted lesions that touch the dilated lesion of the reference."""
        return self._predicted_of_match[self._true_of_match == lesion]

    def false_lesions(self) -> Numbers:
        """Numbers of the predicted lesions that match none."""
        return np.setdiff1d(self.predicted.numbers, self._predicted_of_match)

    def dice(self, lesion: int) -> float:
        """Dice of a lesion and all predicted lesions that match it."""
        matched = self.predicted.sizes[self.matched_by(lesion)].sum()
        return 2.0 * int(self._shared[lesion]) / int(self.true.sizes[lesion] + matched)

    def hd95_mm(self, lesion: int | None = None) -> float:
        """HD95 over surface elements: of the whole region, or of a lesion and its matches.

        Neither side may be empty.
        """
        if lesion is None:
            return self._whole_hd95_mm
        ours, theirs = self._elements
        part = ours.part(self.matched_by(lesion)), theirs.part(np.array([lesion]))
        if part == self._elements:  # the only lesion is the whole region
            return self._whole_hd95_mm
        return hausdorff_of(*part, self._spacing_mm, 95, "elements")

    def nsd(self, tolerances_mm: tuple[float, ...], lesion: int | None = None) -> tuple[float, ...]:
        """Share of boundary voxels within each tolerance of the other side, mean of both sides.

        Of the whole region or of a lesion; neither side may be empty.
        """
        masks = [volume != 0 for volume in self._volumes]
        if lesion is not None:
            masks[0] &= np.isin(self._volumes[0], self.matched_by(lesion))
            masks[1] &= self._volumes[1] == lesion
        ours, theirs = (bits.boundary(bits.pack(mask)) for mask in masks)
        return tuple(self._mean_share(ours, theirs, mm) for mm in tolerances_mm)

    def _mean_share(self, ours: bits.Words, theirs: bits.Words, tolerance_mm: float) -> float:
        x, y, z = self._volumes[0].shape
        shares = (
            bits.count(one & bits.near(other, (x, y, z), self._spacing_mm, tolerance_mm))
            / bits.count(one)
            for one, other in ((ours, theirs), (theirs, ours))
        )
        return sum(shares) / 2

    @cached_property
    def _volumes(self) -> tuple[Labels, Labels]:
        """Labels on both sides in the smallest box around all; neither side may be empty."""
        ours, theirs = self.predicted.volume(), self.true.volume()
        box = CropBox.around((ours != 0) | (theirs != 0))
        assert box is not None
        return ours[box.slices], theirs[box.slices]

    @cached_property
    def _elements(self) -> tuple[SurfacePoints, SurfacePoints]:
        ours, theirs = (surface_points(v, self._spacing_mm, "elements") for v in self._volumes)
        return ours, theirs

    @cached_property
    def _whole_hd95_mm(self) -> float:
        return hausdorff_of(*self._elements, self._spacing_mm, 95, "elements")
