import math

import numpy as np
import pytest

from bratsml.metrics.empty import BRATS, MONAI, NNUNET
from bratsml.metrics.means import mean_over_cases
from bratsml.metrics.overlap import count, volumes

NAN = math.nan


def row(text):
    """A volume of one row: ``#`` for true."""
    return np.array([letter == "#" for letter in text]).reshape(-1, 1, 1)


def test_every_ratio_by_hand():
    # TP 2, FP 1, FN 3, TN 4
    found = count(row("###......."), row(".#####....") & row(".##.##...#") | row("......#..."))
    assert (found.true_positive, found.false_positive) == (2, 1)
    assert (found.false_negative, found.true_negative) == (3, 4)
    assert found.dice == pytest.approx(4 / 8)
    assert found.iou == pytest.approx(2 / 6)
    assert found.sensitivity == pytest.approx(2 / 5)
    assert found.precision == pytest.approx(2 / 3)
    assert found.specificity == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("policy", "prediction", "reference", "iou", "sensitivity", "precision"),
    [
        (BRATS, "..", "..", 1, 1, 1),
        (BRATS, "#.", "..", 0, 0, 0),
        (BRATS, "..", "#.", 0, 0, 0),
        (NNUNET, "..", "..", NAN, NAN, NAN),
        (NNUNET, "#.", "..", 0, NAN, 0),
        (NNUNET, "..", "#.", 0, 0, NAN),
        (MONAI, "..", "..", NAN, NAN, NAN),
        (MONAI, "#.", "..", NAN, NAN, 0),
        (MONAI, "..", "#.", 0, 0, NAN),
    ],
)
def test_empty_masks(policy, prediction, reference, iou, sensitivity, precision):
    found = count(row(prediction), row(reference), policy)
    assert found.iou == pytest.approx(iou, nan_ok=True)
    assert found.sensitivity == pytest.approx(sensitivity, nan_ok=True)
    assert found.precision == pytest.approx(precision, nan_ok=True)
    assert found.specificity == pytest.approx(
        0.5 if "#" in prediction and "#" not in reference else 1
    )


def test_a_reference_without_background_has_no_specificity():
    assert math.isnan(count(row("##"), row("##"), NNUNET).specificity)


def test_volumes_and_their_error():
    found = volumes(row("###."), row("..##"), (10.0, 10.0, 5.0))
    assert (found.prediction_ml, found.reference_ml) == (1.5, 1.0)
    assert found.error_ml == 0.5
    assert found.relative_error == 0.5
    assert math.isnan(volumes(row("#"), row("."), (1.0, 1.0, 1.0)).relative_error)
    assert volumes(row("."), row("."), (1.0, 1.0, 1.0)).relative_error == 0


def test_a_mean_says_over_how_many():
    found = mean_over_cases([0.5, NAN, 1.0])
    assert (found.value, found.num_cases, found.num_left_out) == (0.75, 2, 1)
    assert str(found) == "0.75 over 2 cases, 1 left out"
    assert str(mean_over_cases([0.5])) == "0.5 over 1 cases"
    assert math.isnan(mean_over_cases([NAN]).value)
    with pytest.raises(ValueError, match="infinite"):
        mean_over_cases([0.5, math.inf])
