"""Overlap and volumes of two masks, from counts of voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bratsml.geometry import Spacing
from bratsml.metrics.empty import BRATS, EmptyPolicy
from bratsml.metrics.masks import BoolVolume, require_masks, require_spacing


@dataclass(frozen=True)
class Counts:
    """Voxels by what the prediction and the reference say of them.

    Ratios without a denominator are as the policy says; NaN leaves the case out of a mean.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int
    policy: EmptyPolicy = BRATS

    @property
    def predicted(self) -> int:
        """Voxels in the prediction."""
        return self.true_positive + self.false_positive

    @property
    def true(self) -> int:
        """Voxels in the reference."""
        return self.true_positive + self.false_negative

    @property
    def dice(self) -> float:
        """``2 TP / (2 TP + FP + FN)`` (Dice 1945), 0 to 1."""
        empty = self.policy.score(self.predicted > 0, self.true > 0)
        if empty is not None:
            return empty.dice
        return 2.0 * self.true_positive / (self.predicted + self.true)

    @property
    def iou(self) -> float:
        """``TP / (TP + FP + FN)`` (Jaccard 1912), 0 to 1; of empty masks as Dice."""
        empty = self.policy.score(self.predicted > 0, self.true > 0)
        if empty is not None:
            return empty.dice
        return self.true_positive / (self.predicted + self.false_negative)

    @property
    def sensitivity(self) -> float:
        """``TP / (TP + FN)``, the share of the reference that was found."""
        return self.policy.ratio(self.true_positive, self.true, empty=self._empty)

    @property
    def precision(self) -> float:
        """``TP / (TP + FP)``, the share of the prediction that is right."""
        return self.policy.ratio(self.true_positive, self.predicted, empty=self._empty)

    @property
    def specificity(self) -> float:
        """``TN / (TN + FP)``, of voxels outside the reference; depends on how much air there is."""
        others = self.true_negative + self.false_positive
        return self.policy.ratio(self.true_negative, others, empty=False)

    @property
    def _empty(self) -> bool:
        return not self.predicted and not self.true


@dataclass(frozen=True)
class Volumes:
    """Volumes of prediction and reference in millilitres."""

    prediction_ml: float
    reference_ml: float

    @property
    def error_ml(self) -> float:
        """Prediction minus reference."""
        return self.prediction_ml - self.reference_ml

    @property
    def relative_error(self) -> float:
        """``error_ml / reference_ml``; 0 if both are empty, NaN if only the reference is."""
        if self.reference_ml:
            return self.error_ml / self.reference_ml
        return math.nan if self.prediction_ml else 0.0


def count(prediction: BoolVolume, reference: BoolVolume, policy: EmptyPolicy = BRATS) -> Counts:
    """Count voxels by agreement.

    Args:
        prediction: Mask of shape ``(X, Y, Z)``.
        reference: Same shape as ``prediction``.

    Raises:
        ValueError: Not boolean, or different shapes.
    """
    require_masks(prediction, reference)
    predicted, true = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    both = int(np.count_nonzero(prediction & reference))
    neither = prediction.size - predicted - true + both
    return Counts(both, predicted - both, true - both, neither, policy)


def dice(prediction: BoolVolume, reference: BoolVolume, policy: EmptyPolicy = BRATS) -> float:
    """Dice coefficient ``2 |P and R| / (|P| + |R|)`` (Dice 1945), between 0 and 1.

    Empty masks: as the policy says; NaN where it leaves the case out.

    Args:
        prediction: Mask of shape ``(X, Y, Z)``.
        reference: Same shape as ``prediction``.

    Raises:
        ValueError: Not boolean, or different shapes.
    """
    return count(prediction, reference, policy).dice


def volumes(prediction: BoolVolume, reference: BoolVolume, spacing_mm: Spacing) -> Volumes:
    """Volumes of both masks.

    Raises:
        ValueError: Not boolean, different shapes, or voxel sizes that are not finite and above 0.
    """
    require_masks(prediction, reference)
    require_spacing(spacing_mm)
    voxel_ml = math.prod(spacing_mm) / 1000
    sizes = (int(np.count_nonzero(mask)) for mask in (prediction, reference))
    return Volumes(*(size * voxel_ml for size in sizes))
