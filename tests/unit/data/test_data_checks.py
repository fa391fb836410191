"""Checks of a case as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from bratsml.data.checks import (
    check_background,
    check_contrast,
    check_different_files,
    check_same_grid,
    checked_label_map,
    constant_background,
    grid_distance_mm,
)
from bratsml.data.nifti import Volume
from bratsml.errors import DataError
from bratsml.labels import get_scheme

SCHEME = get_scheme("brats2021")


def volume(affine: np.ndarray, shape=(10, 10, 10)) -> Volume:
    return Volume(np.zeros(shape), affine, ())


def test_distance_of_grids():
    shifted = np.eye(4)
    shifted[:3, 3] = 3, 0, 4
    assert grid_distance_mm(np.eye(4), shifted, (5, 5, 5)) == pytest.approx(5)
    # Flipped about its own middle, the corner voxels of a row of 10 swap: 9 mm.
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[0, 3] = 9
    assert grid_distance_mm(np.eye(4), flipped, (10, 10, 10)) == pytest.approx(9)
    # 1 % larger voxels: the far corner is 0.09 mm off along each axis.
    larger = np.diag([1.01, 1.01, 1.01, 1])
    assert grid_distance_mm(np.eye(4), larger, (10, 10, 10)) == pytest.approx(0.09 * np.sqrt(3))


def test_a_shifted_modality_is_refused_with_the_distance():
    moved = np.eye(4)
    moved[1, 3] = 10
    with pytest.raises(DataError, match=r"b.nii: lies up to 10.0 mm away from a.nii"):
        check_same_grid(volume(moved), "b.nii", volume(np.eye(4)), "a.nii", "case7")


def test_rounding_of_the_affine_is_not_a_shift():
    rounded = np.eye(4)
    rounded[0, 3] = 1e-3
    check_same_grid(volume(rounded), "b.nii", volume(np.eye(4)), "a.nii", "case7")


def test_other_shape():
    with pytest.raises(DataError, match=r"has shape 9x10x10, but a.nii has 10x10x10"):
        check_same_grid(
            volume(np.eye(4), (9, 10, 10)), "b.nii", volume(np.eye(4)), "a.nii", "case7"
        )


def test_contrast():
    names = {"t1n": "a.nii", "t1c": "b.nii"}
    varied = np.arange(8.0).reshape(2, 2, 2)
    zero = np.zeros((2, 2, 2))

    def check(t1n: np.ndarray, t1c: np.ndarray) -> None:
        images = {"t1n": t1n, "t1c": t1c}
        ranges = {modality: (a.min(), a.max()) for modality, a in images.items()}
        check_contrast(images, ranges, names, "case7")

    with pytest.raises(DataError, match="foreground is empty"):
        check(zero, zero)
    with pytest.raises(DataError, match=r"b.nii: t1c has zero variance: every voxel is 0"):
        check(varied, zero)
    with pytest.raises(DataError, match=r"b.nii: the same volume is given as t1n and t1c"):
        check(varied, varied.copy())
    check(varied, varied[::-1])


def test_one_file_under_two_names():
    names = {"t1n": "a.nii", "t2w": "b.nii"}
    with pytest.raises(DataError, match=r"b.nii: the same file is given as t1n and t2w"):
        check_different_files({"t1n": "ff", "t2w": "ff"}, names, "case7")


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i8", "f4", "f8"])
def test_labels_of_any_type_become_uint8(dtype):
    label = np.array([0, 1, 2, 4], dtype=dtype).reshape(2, 2, 1)
    checked = checked_label_map(label, "seg.nii", "case7", SCHEME)
    assert checked.dtype == np.uint8
    assert checked.ravel().tolist() == [0, 1, 2, 4]


def test_labels_nearly_whole_are_rounded():
    label = np.array([0.0, 0.9995, 3.9999, 2.0005]).reshape(2, 2, 1)
    assert checked_label_map(label, "s", "c", SCHEME).ravel().tolist() == [0, 1, 4, 2]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0, 5, 5, 1], "5 (2 voxels)"),
        ([0, -1, 1, 1], "-1 (1 voxels)"),
        ([0, 3, 3, 3], "3 (3 voxels)"),  # ET of 2023 read as 2021
        ([0, np.nan, np.nan, 1], "nan (2 voxels)"),
        ([0, 3.99, 1, 1], "3.99 (1 voxels)"),
        ([0, np.inf, 1, 1], "inf (1 voxels)"),
        ([0, 1000, 1, 1], "1000 (1 voxels)"),
        ([0, 260, 1, 1], "260 (1 voxels)"),  # 4 after wrapping round in uint8
    ],
)
def test_unknown_labels_are_refused_with_their_histogram(values, shown):
    label = np.array(values, dtype=np.float64).reshape(2, 2, 1)
    with pytest.raises(DataError) as caught:
        checked_label_map(label, "seg.nii", "case7", SCHEME)
    assert caught.value.reason.endswith(f"scheme brats2021 does not know: {shown}")
    assert "0, 1, 2, 4" in caught.value.remedy


def test_a_long_histogram_is_cut():
    label = np.arange(5, 25, dtype=np.int16).reshape(2, 2, 5)
    with pytest.raises(DataError, match=r"\(1 voxels\) and 12 more"):
        checked_label_map(label, "seg.nii", "case7", SCHEME)


@pytest.mark.parametrize("value", [-1, -1024, 0.5, 1e-7, 4095])
def test_a_background_that_is_not_zero_is_found(value):
    volume = np.full((6, 5, 4), value, dtype=np.float32)
    volume[1:5, 1:4, 1:3] = np.arange(24).reshape(4, 3, 2)
    assert constant_background(volume) == pytest.approx(value)
    volume[2, 0, 1] = 7  # an ear at the border is no matter
    assert constant_background(volume) == pytest.approx(value)
    with pytest.raises(DataError, match=r"case7: t1\.nii: its background is .*--repair"):
        check_background({"t1n": volume}, {"t1n": "t1.nii"}, "case7")


def test_a_border_of_zeros_or_of_tissue_is_no_such_background():
    assert constant_background(np.zeros((4, 4, 4))) == 0
    assert constant_background(np.random.default_rng(0).normal(size=(6, 6, 6))) == 0
    tissue = np.random.default_rng(0).integers(1, 9, (6, 6, 6))
    tissue[np.ix_([0, -1], [0, -1], [0, -1])] = 5  # equal corners alone say nothing
    assert constant_background(tissue) == 0
