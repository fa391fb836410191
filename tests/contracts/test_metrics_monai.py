"""The scores that other tools define the same way, against those tools."""

import math
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from monai.metrics.utils import create_table_neighbour_code_to_surface_area

from bratsml.metrics.empty import MONAI
from bratsml.metrics.overlap import dice
from bratsml.metrics.surface import hausdorff95_mm, normalized_surface_dice, surface_scores
from bratsml.metrics.surface_points import element_areas_mm2

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


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 2.9)])
def test_elements_have_the_areas_of_the_table_of_surface_distance(spacing):
    theirs, kernel = create_table_neighbour_code_to_surface_area(spacing)
    weights = kernel.numpy().reshape(2, 2, 2).astype(int)
    ours = element_areas_mm2(spacing)
    for code in range(256):
        inside = (weights & code) > 0
        ours_code = int((inside.reshape(-1) << np.arange(8)).sum())
        assert ours[ours_code] == pytest.approx(float(theirs[code]), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_surface_distances_as_monai(seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((2, 8, 9, 7)) < rng.uniform(0.02, 0.7)
    tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in masks]
    found = surface_scores(*masks, SPACING, tolerances_mm=(0.5, 1.2))
    average = compute_average_surface_distance(
        *tensors, include_background=True, symmetric=True, spacing=SPACING
    )
    assert found.average_mm == pytest.approx(average.item(), rel=1e-5)
    whole = compute_hausdorff_distance(*tensors, include_background=True, spacing=SPACING)
    assert found.hd100_mm == pytest.approx(whole.item(), rel=1e-5)
    for tolerance, nsd in zip((0.5, 1.2), found.nsd, strict=True):
        theirs = compute_surface_dice(
            *tensors, [tolerance], include_background=True, spacing=SPACING
        )
        assert nsd == pytest.approx(theirs.item(), rel=1e-5)
        assert normalized_surface_dice(*masks, SPACING, tolerance) == nsd


@pytest.mark.parametrize("seed", range(3))
def test_the_same_surface_dice_of_elements_as_monai(seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((2, 8, 9, 7)) < 0.4
    tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in masks]
    theirs = compute_surface_dice(
        *tensors, [0.9], include_background=True, spacing=SPACING, use_subvoxels=True
    )
    ours = normalized_surface_dice(*masks, SPACING, 0.9, surface="elements")
    assert ours == pytest.approx(theirs.item(), rel=1e-5)
