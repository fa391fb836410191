"""The scores that other tools define the same way, against those tools."""

import math
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance

from bratsml.metrics.empty import MONAI
from bratsml.metrics.overlap import dice
from bratsml.metrics.surface import hausdorff95_mm

SPACING = (1.0, 0.5, 2.0)


def of_monai(prediction, reference):
    pair = [
        torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (prediction, reference)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on empty masks, which the policy is about
        distance = compute_hausdorff_distance(
            *pair, include_background=True, percentile=95, spacing=SPACING
        )
    return compute_dice(*pair).item(), distance.item()


@pytest.mark.parametrize("seed", range(5))
def test_the_same_numbers_as_monai(seed):
    rng = np.random.default_rng(seed)
    prediction, reference = rng.random((2, 8, 9, 7)) < rng.uniform(0.02, 0.7)
    overlap, distance = of_monai(prediction, reference)
    assert dice(prediction, reference) == pytest.approx(overlap)
    assert hausdorff95_mm(prediction, reference, SPACING) == pytest.approx(distance, rel=1e-5)


@pytest.mark.parametrize("predicted", [True, False])
@pytest.mark.parametrize("true", [True, False])
def test_the_monai_policy_on_empty_masks(predicted, true):
    prediction, reference = np.zeros((2, 5, 5, 5), bool)
    prediction[1:3, 1:3, 1:3], reference[1:3, 1:3, 1:3] = predicted, true
    overlap, distance = of_monai(prediction, reference)
    assert dice(prediction, reference, MONAI) == pytest.approx(overlap, nan_ok=True)
    ours = hausdorff95_mm(prediction, reference, SPACING, MONAI)
    assert ours == pytest.approx(distance, nan_ok=True)
    assert math.isnan(ours) != (predicted and true)
