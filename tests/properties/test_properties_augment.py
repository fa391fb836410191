"""Whatever is drawn: label maps keep their values, images stay finite, both their form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bratsml.data.augment import RotateScale, augment
from bratsml.experiment import load_experiment

NNUNET = load_experiment(Path(__file__).parents[2] / "experiments" / "dynunet.yaml").loader.augment
SIDES = st.integers(1, 12)
VALUES = np.array([0, 1, 2, 4], np.uint8)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(SIDES, SIDES, SIDES), seed=st.integers(0, 2**32), modalities=st.integers(1, 4)
)
def test_nnunets_list(shape: tuple[int, int, int], seed: int, modalities: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((modalities, *shape)).astype(np.float32)
    label = rng.choice(VALUES, shape)
    before = set(np.unique(label))
    augment(image, label, NNUNET, rng)
    assert image.shape == (modalities, *shape)
    assert np.isfinite(image).all()
    assert set(np.unique(label)) <= before | {0}


@settings(deadline=None, max_examples=60)
@given(shape=st.tuples(SIDES, SIDES, SIDES), seed=st.integers(0, 2**32))
def test_a_turned_label_map_holds_no_new_value_and_moves_with_its_image(
    shape: tuple[int, int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # blocks of one value, so that a voxel whose neighbours agree is that value in image and label
    label = np.full(shape, rng.choice(VALUES), np.uint8)
    label[: shape[0] // 2] = rng.choice(VALUES)
    before = set(np.unique(label))
    image = label[None].astype(np.float32).copy()
    step = RotateScale(probability=1, scale_probability=1, degrees=180, factor=(0.5, 2))
    augment(image, label, [step], rng)
    assert set(np.unique(label)) <= before | {0}
    assert image.max() <= max(before) * (1 + 1e-5)
    for value in before:  # interpolated between voxels of one value
        inside = np.isclose(image[0], value, atol=1e-4) & (image[0] > 0)
        if len(before - {0}) == 1:
            assert (label[inside] == value).all()
