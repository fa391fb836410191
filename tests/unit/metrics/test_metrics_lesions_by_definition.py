"""The engine against the rules as written down, on random small volumes."""

from dataclasses import replace

import numpy as np
import pytest
from lesions_by_definition import PARAMETERS, score
from scipy import ndimage

from bratsml.metrics.lesions import score_lesions
from bratsml.metrics.rules import RULES

TISSUES = {  # region to label values, as they lie in a label map
    "brats2023": {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "NETC": (1,)},
    "brats2024-gli": {
        "WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "NETC": (1,), "SNFH": (2,), "RC": (4,),
    },
    "brats2024-ped": {
        "WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,), "NETC": (2,), "CC": (3,), "ED": (4,),
    },
    "brats2024-men-rt": {"GTV": (1,)},
}  # fmt: skip
TISSUES["brats2025-met"] = TISSUES["brats2024-gli"]


def random_map(rng, shape):
    """Blobs of several sizes, some of them crumbled."""
    label_map = np.zeros(shape, np.uint8)
    for value in (2, 1, 3, 4):
        smooth = ndimage.gaussian_filter(rng.standard_normal(shape), rng.uniform(0.6, 2.0))
        label_map[smooth > np.quantile(smooth, rng.uniform(0.85, 0.995))] = value
    label_map[rng.random(shape) < rng.uniform(0, 0.3)] = 0
    return label_map


def random_pair(rng, shape):
    """Two label maps that have something in common, or are empty."""
    reference = random_map(rng, shape)
    prediction = random_map(rng, shape)
    kept = ndimage.gaussian_filter(rng.standard_normal(shape), 2) > rng.uniform(-0.2, 0.2)
    prediction[kept] = np.roll(reference, rng.integers(0, 3), axis=0)[kept]
    if rng.random() < 0.1:
        prediction[:] = 0
    if rng.random() < 0.1:
        reference[:] = 0
    return prediction, reference


def check(name, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(5, 22, 3))
    spacing = (1.0, 1.0, 1.0) if rng.random() < 0.5 else tuple(rng.uniform(0.5, 3.0, 3))
    maps = random_pair(rng, shape)
    rule = replace(RULES[name], tolerances_mm=(0.5, 1.0))
    values = TISSUES[rule.label_scheme]
    masks = [{tissue: np.isin(m, values[tissue]) for tissue in rule.tissues} for m in maps]
    expected = score(name, *masks, spacing)
    found = score_lesions(*masks, spacing, rule)
    assert [region.region for region in found] == list(PARAMETERS[name].regions)
    for region in found:
        for key, value in expected[region.region].items():
            assert getattr(region, key) == pytest.approx(value, rel=1e-6, abs=1e-9), (
                region.region,
                key,
            )


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", range(2))
def test_the_same_scores_by_definition(name, seed):
    check(name, seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seeds", range(100, 130, 10))
def test_the_same_scores_by_definition_hundreds_of_times(name, seeds):
    for seed in range(seeds, seeds + 10):
        check(name, seed)
