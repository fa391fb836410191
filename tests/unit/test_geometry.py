from __future__ import annotations

import itertools

import nibabel.orientations as nibabel_orientations
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bratsml.geometry import CropBox, Reorientation, spacing_mm_of

AXIS_ORDERS = [
    np.array(permutation, dtype=float) * signs
    for permutation in itertools.permutations(np.eye(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def affine_of(columns: np.ndarray, origin: tuple[float, float, float] = (0, 0, 0)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = columns.T
    affine[:3, 3] = origin
    return affine


def test_spacing_is_the_length_of_each_column() -> None:
    affine = np.diag([2.0, -0.5, 3.0, 1.0])
    assert spacing_mm_of(affine) == (2.0, 0.5, 3.0)


def test_lps_volume_is_flipped_along_x_and_y() -> None:
    turn = Reorientation.to_ras(np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert turn == Reorientation((0, 1, 2), (True, True, False))


@pytest.mark.parametrize("columns", AXIS_ORDERS)
def test_turning_agrees_with_nibabel_and_undoes_itself(columns: np.ndarray) -> None:
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    affine = affine_of(columns, (5.0, -7.0, 11.0))
    turn = Reorientation.to_ras(affine)
    table = nibabel_orientations.io_orientation(affine)
    turned = turn.apply(array)
    assert (turned == nibabel_orientations.apply_orientation(array, table)).all()
    assert (turn.undo(turned) == array).all()
    expected = affine @ nibabel_orientations.inv_ornt_aff(table, array.shape)
    assert np.allclose(turn.ras_affine(affine, array.shape), expected)


@given(st.lists(st.tuples(*(st.integers(0, n - 1) for n in (4, 5, 6))), min_size=1))
def test_the_box_around_voxels_holds_them_tightly(voxels: list[tuple[int, int, int]]) -> None:
    mask = np.zeros((4, 5, 6), dtype=bool)
    mask[tuple(np.transpose(voxels))] = True
    box = CropBox.around(mask)
    assert box is not None
    assert box.crop(mask).sum() == mask.sum()
    assert box.start == tuple(np.min(voxels, axis=0))
    assert (box.paste(box.crop(mask), mask.shape) == mask).all()


def test_margin_stays_within_the_volume_and_nothing_gives_no_box() -> None:
    mask = np.zeros((4, 5, 6), dtype=bool)
    assert CropBox.around(mask) is None
    mask[0, 2, 5] = True
    assert CropBox.around(mask, margin_voxels=1) == CropBox((0, 1, 4), (2, 4, 6))
