"""Scores of a real network's predictions, against published numbers."""

import re
import time

import nibabel as nib
import numpy as np
import pytest

from bratsml.evaluation.evaluate import EvaluationConfig, score_case
from bratsml.labels import get_scheme
from bratsml.metrics.surface import hausdorff95_mm

pytestmark = pytest.mark.real_data

REGIONS = ("WT", "TC", "ET")
DICE = {
    "BraTS2021_00000": (0.9398, 0.9801, 0.9607),
    "BraTS2021_00002": (0.6369, 0.6501, 0.6054),
    "BraTS2021_00014": (0.5834, 0.7899, 0.7664),
    "BraTS2021_00024": (0.8985, 0.9351, 0.9172),
    "BraTS2021_00031": (0.6681, 0.9179, 0.8322),
}


def stack_of(path):
    """Region stack by array index; the affine of the predictions is not that of the cases."""
    return get_scheme("brats2021").region_stack(np.asarray(nib.load(path).dataobj), REGIONS)


def both(folder, case_id):
    prediction = stack_of(folder / "predictions" / f"{case_id}.nii.gz")
    return prediction, stack_of(folder / "brats2021" / case_id / f"{case_id}_seg.nii.gz")


@pytest.mark.parametrize("case_id", DICE)
def test_dice_of_the_known_predictions(real_data, case_id):
    rows = score_case(case_id, *both(real_data, case_id), REGIONS, (1, 1, 1), EvaluationConfig())
    assert tuple(round(row["dice"], 4) for row in rows) == DICE[case_id]


def test_the_numbers_above_are_those_of_the_data(real_data):
    readme = (real_data / "README.md").read_text(encoding="utf-8")
    known = re.findall(r"(\d{5}) (\.\d{4})/(\.\d{4})/(\.\d{4})", readme)
    assert {f"BraTS2021_{case}": tuple(map(float, d)) for case, *d in known} == DICE


def test_hd95_is_of_the_boundary_voxel_kind(real_data):
    prediction, reference = both(real_data, "BraTS2021_00000")
    # weighted by surface area it would be 57.78 mm
    assert hausdorff95_mm(prediction[0], reference[0], (1, 1, 1)) == pytest.approx(6.16, abs=0.005)


def test_a_case_is_scored_in_well_under_a_second(real_data):
    prediction, reference = both(real_data, "BraTS2021_00024")
    start = time.process_time()
    score_case("A", prediction, reference, REGIONS, (1, 1, 1), EvaluationConfig())
    assert time.process_time() - start < 1
