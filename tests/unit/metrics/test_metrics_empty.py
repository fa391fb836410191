import math

import numpy as np
import pytest

from bratsml.metrics.empty import BRATS, MONAI, NNUNET, POLICIES
from bratsml.metrics.overlap import dice
from bratsml.metrics.surface import hausdorff95_mm

NAN = math.nan
DIAGONAL = math.sqrt(2**2 + 4**2 + 4**2)  # 2 x 2 x 1 voxels of 1 x 2 x 4 mm: 6
SPACING = (1.0, 2.0, 4.0)
NOTHING = np.zeros((2, 2, 1), bool)
SOMETHING = np.array([[[True], [False]], [[False], [False]]])

# policy, prediction, reference, Dice, HD95
CASES = [
    (BRATS, NOTHING, NOTHING, 1.0, 0.0),
    (BRATS, NOTHING, SOMETHING, 0.0, DIAGONAL),
    (BRATS, SOMETHING, NOTHING, 0.0, DIAGONAL),
    (BRATS, SOMETHING, SOMETHING, 1.0, 0.0),
    (NNUNET, NOTHING, NOTHING, NAN, NAN),
    (NNUNET, NOTHING, SOMETHING, 0.0, NAN),
    (NNUNET, SOMETHING, NOTHING, 0.0, NAN),
    (NNUNET, SOMETHING, SOMETHING, 1.0, 0.0),
    (MONAI, NOTHING, NOTHING, NAN, NAN),
    (MONAI, NOTHING, SOMETHING, 0.0, NAN),
    (MONAI, SOMETHING, NOTHING, NAN, NAN),
    (MONAI, SOMETHING, SOMETHING, 1.0, 0.0),
]


@pytest.mark.parametrize(("policy", "prediction", "reference", "overlap", "distance"), CASES)
def test_every_policy_in_the_four_cases(policy, prediction, reference, overlap, distance):
    assert dice(prediction, reference, policy) == pytest.approx(overlap, nan_ok=True)
    found = hausdorff95_mm(prediction, reference, SPACING, policy)
    assert found == pytest.approx(distance, nan_ok=True)


def test_the_penalty_can_be_given():
    assert hausdorff95_mm(NOTHING, SOMETHING, SPACING, BRATS, penalty_mm=374.0) == 374.0
    assert hausdorff95_mm(NOTHING, NOTHING, SPACING, BRATS, penalty_mm=374.0) == 0.0
    assert math.isnan(hausdorff95_mm(NOTHING, SOMETHING, SPACING, NNUNET, penalty_mm=374.0))


def test_the_diagonal_of_a_brats_volume():
    prediction, reference = np.zeros((2, 240, 240, 155), bool)
    reference[100, 100, 100] = True
    # the challenges round 373.2 up to 374
    assert math.ceil(hausdorff95_mm(prediction, reference, (1.0, 1.0, 1.0))) == 374


def test_policies_carry_their_own_name():
    assert {name: policy.name for name, policy in POLICIES.items()} == {
        name: name for name in ("brats", "nnunet", "monai")
    }
