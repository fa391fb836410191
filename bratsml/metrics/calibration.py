"""Do probabilities mean what they say? Reliability curve and expected calibration error.

Of all voxels given a probability near 0.8, a calibrated network is right about 80 of 100. Source:
Guo et al. 2017 (On Calibration of Modern Neural Networks).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

NUM_BINS = 20


def _zeros() -> npt.NDArray[np.float64]:
    return np.zeros(NUM_BINS)


@dataclass
class Reliability:
    """Sums over voxels by bins of probability; cases are added one after another.

    Attributes:
        counts, sums, hits: Per bin of equal width the voxels, the sum of their probabilities, and
            how many of them belong to the region.
    """

    counts: npt.NDArray[np.float64] = field(default_factory=_zeros)
    sums: npt.NDArray[np.float64] = field(default_factory=_zeros)
    hits: npt.NDArray[np.float64] = field(default_factory=_zeros)

    def add(
        self, probabilities: npt.NDArray[np.floating], reference: npt.NDArray[np.bool_]
    ) -> None:
        """Count one case.

        Args:
            probabilities: 0 to 1, any shape.
            reference: Same shape.

        Raises:
            ValueError: Other shapes, or a probability outside 0 to 1.
        """
        if probabilities.shape != reference.shape:
            raise ValueError(f"shapes {probabilities.shape} and {reference.shape} differ")
        flat, truth = probabilities.ravel(), reference.ravel()
        if flat.size and not (flat.min() >= 0 and flat.max() <= 1):
            raise ValueError("probabilities must lie between 0 and 1")
        bins = np.minimum((flat * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        self.counts += np.bincount(bins, minlength=NUM_BINS)
        self.sums += np.bincount(bins, flat, NUM_BINS)
        self.hits += np.bincount(bins[truth], minlength=NUM_BINS)

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """Mean probability of every bin; NaN where it is empty."""
        return _ratio(self.sums, self.counts)

    @property
    def accuracy(self) -> npt.NDArray[np.float64]:
        """Share of every bin's voxels that belong to the region; NaN where it is empty."""
        return _ratio(self.hits, self.counts)

    def error(self, first_bin: int = 0) -> float:
        """Expected calibration error: mean distance of accuracy and confidence over voxels.

        Args:
            first_bin: Bins below it are left out: with 1 the voxels that are surely background,
                which are most and would make any network look calibrated.

        Returns:
            0 to 1; NaN without voxels.
        """
        counts = self.counts[first_bin:]
        gaps = np.abs(self.hits - self.sums)[first_bin:]
        return float(gaps.sum() / counts.sum()) if counts.sum() else float("nan")


def _ratio(
    over: npt.NDArray[np.float64], under: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)
