"""What a score is when one of the masks, or both, are empty: one policy with named choices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

PolicyName = Literal["brats", "nnunet", "monai"]


@dataclass(frozen=True)
class EmptyScore:
    """Scores of one empty case.

    Attributes:
        dice: NaN leaves the case out of means, which then say so.
        distance_mm: NaN likewise; infinity stands for the penalty that the caller chooses.
    """

    dice: float
    distance_mm: float


@dataclass(frozen=True)
class EmptyPolicy:
    """Scores of the three empty cases.

    Attributes:
        both: Neither mask holds a voxel.
        no_prediction: Only the reference does: everything was missed.
        no_reference: Only the prediction does: all of it is false.
        undefined: A ratio with nothing to divide by although one mask holds a voxel: sensitivity
            without a reference, precision without a prediction. If neither does, it is what
            ``both`` says of Dice.
    """

    name: PolicyName
    both: EmptyScore
    no_prediction: EmptyScore
    no_reference: EmptyScore
    undefined: float

    def score(self, predicted: bool, true: bool) -> EmptyScore | None:
        """The scores when a mask is empty, ``None`` when neither is.

        Args:
            predicted: Whether the prediction holds a voxel.
            true: Whether the reference does.
        """
        if predicted and true:
            return None
        if predicted:
            return self.no_reference
        return self.no_prediction if true else self.both

    def ratio(self, part: int, whole: int, *, empty: bool) -> float:
        """``part / whole``; without a whole ``undefined``, or if both masks are empty as Dice.

        Args:
            empty: Whether neither mask holds a voxel.
        """
        if whole:
            return part / whole
        return self.both.dice if empty else self.undefined


_LEFT_OUT = EmptyScore(math.nan, math.nan)
_MISSED = EmptyScore(0.0, math.inf)
_MISSED_UNMEASURED = EmptyScore(0.0, math.nan)

# The challenges: agreeing on nothing is perfect, a miss is punished with the worst distance.
BRATS = EmptyPolicy("brats", EmptyScore(1.0, 0.0), _MISSED, _MISSED, 0.0)
# nnU-Net 2: two empty masks say nothing. It has no distance; here none is measured on empty masks.
NNUNET = EmptyPolicy("nnunet", _LEFT_OUT, _MISSED_UNMEASURED, _MISSED_UNMEASURED, math.nan)
# MONAI 1.6 by default: as nnU-Net, and false predictions on an empty reference go unpunished.
MONAI = EmptyPolicy("monai", _LEFT_OUT, _MISSED_UNMEASURED, _LEFT_OUT, math.nan)

POLICIES: dict[PolicyName, EmptyPolicy] = {p.name: p for p in (BRATS, NNUNET, MONAI)}
