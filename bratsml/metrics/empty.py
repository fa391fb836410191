"""What a score is when one of the masks, or both, are empty: one policy with named choices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

PolicyName = Literal["brats", "nnunet", "monai"]


@dataclass(frozen=True)
class EmptyPolicy:
    """Scores of the empty cases; NaN leaves a case out of means, which then say over how many.

    Attributes:
        both_dice, both_distance: Neither mask holds a voxel.
        one_dice, one_distance: Exactly one does; a distance of ``inf`` stands for the penalty that
            the caller chooses, e.g. the diagonal of the volume.
    """

    name: PolicyName
    both_dice: float
    both_distance: float
    one_dice: float
    one_distance: float


POLICIES: dict[str, EmptyPolicy] = {
    policy.name: policy
    for policy in (
        # the challenges: agreeing on nothing is perfect, missing all is the worst distance
        EmptyPolicy("brats", 1.0, 0.0, 0.0, math.inf),
        # nnU-Net: an empty case says nothing and is left out
        EmptyPolicy("nnunet", math.nan, math.nan, 0.0, math.nan),
        # MONAI (ignore_empty): an empty reference is left out, an empty prediction has no distance
        EmptyPolicy("monai", math.nan, math.nan, 0.0, math.nan),
    )
}
