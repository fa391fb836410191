"""The lesions of one region on both sides: which match, and how far they are from each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bratsml.geometry import CropBox, Spacing
from bratsml.metrics.distances import Distances, SurfacePair
from bratsml.metrics.instances import Instances
from bratsml.metrics.surface_points import SurfaceKind, surface_points

Numbers = npt.NDArray[np.int64]


class MatchedLesions:
    """Predicted lesions and those of the reference in one region.

    Attributes:
        predicted, true: The lesions; their dilations are those of ``true.reach``.
        num_shared: Voxels in both masks.
    """

    def __init__(self, predicted: Instances, true: Instances, spacing_mm: Spacing) -> None:
        self.predicted, self.true = predicted, true
        self._spacing_mm = spacing_mm
        self._pairs: dict[SurfaceKind, SurfacePair] = {}
        ours = np.flatnonzero(predicted.labels)
        found = predicted.labels.reshape(-1)[ours]
        near = true.reach.reshape(-1)[ours]
        pairs = near.astype(np.int64) * len(predicted.sizes) + found
        near_and_found = np.divmod(np.unique(pairs[near > 0]), len(predicted.sizes))
        self._true_of_match, self._predicted_of_match = near_and_found
        # whatever overlaps a lesion also touches its dilation, so all of it is matched
        shared = np.bincount(true.labels.reshape(-1)[ours], minlength=len(true.sizes))
        shared[0] = 0
        self._shared, self.num_shared = shared, int(shared.sum())

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

    def distances(
        self, kind: SurfaceKind, lesion: int | None = None
    ) -> tuple[Distances, Distances]:
        """Between the surfaces, both ways: of the whole region or of a lesion and its matches.

        Neither side may be empty.
        """
        pair = self._pairs.get(kind) or self._measure(kind)
        if lesion is None:
            return pair.whole()
        return pair.between(self.matched_by(lesion), np.array([lesion]))

    def _measure(self, kind: SurfaceKind) -> SurfacePair:
        box = CropBox.around((self.predicted.labels != 0) | (self.true.labels != 0))
        assert box is not None
        ours, theirs = (
            surface_points(side.labels[box.slices], self._spacing_mm, kind)
            for side in (self.predicted, self.true)
        )
        self._pairs[kind] = SurfacePair(ours, theirs, self._spacing_mm)
        return self._pairs[kind]
