"""Interpolation against torch's, and the grids it runs on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bratsml.data.resample import (
    resize,
    respace,
    respaced_positions,
    respaced_shape,
    sample,
)


@pytest.mark.parametrize("shape", [(4, 5, 6), (9, 3, 7), (6, 5, 8), (1, 1, 1)])
def test_resize_equals_torch(shape):
    volume = np.random.default_rng(0).normal(size=(2, 6, 5, 7)).astype(np.float32)
    tensor = torch.from_numpy(volume)[None]
    linear = torch.nn.functional.interpolate(tensor, shape, mode="trilinear")[0].numpy()
    np.testing.assert_allclose(resize(volume, shape, linear=True), linear, atol=1e-5)
    nearest = torch.nn.functional.interpolate(tensor, shape, mode="nearest-exact")[0].numpy()
    np.testing.assert_array_equal(resize(volume, shape, linear=False), nearest)


def test_nearest_keeps_the_type_and_linear_gives_float32():
    label = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    assert resize(label, (4, 4, 4), linear=False).dtype == np.uint8
    assert resize(label, (4, 4, 4), linear=True).dtype == np.float32
    assert resize(label > 3, (3, 3, 3), linear=False).dtype == np.bool_


def test_respaced_shape_fills_the_same_extent():
    # 10 x 0.5 mm = 5 mm; 4 x 2.5 mm = 10 mm; 1 x 0.2 mm would be none, and is one.
    assert respaced_shape((10, 4, 1), (0.5, 2.5, 0.2), 1.0) == (5, 10, 1)


def test_respaced_positions_share_the_middle():
    # Four 2 mm voxels have centres at -3 -1 1 3 mm; eight of 1 mm at -3.5 ... 3.5 mm.
    np.testing.assert_allclose(
        respaced_positions(4, 8, 2.0, 1.0), [-0.25, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25]
    )


def test_respacing_a_ramp_gives_the_ramp():
    # A volume whose value is its x in mm keeps it: centres at 1 3 5 7 mm -> 0.5 ... 7.5 mm,
    # except beyond the outermost centres, where the edge value holds.
    ramp = np.array([1, 3, 5, 7], dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    fine = respace(ramp, (2.0, 1.0, 1.0), (8, 2, 2), (1.0, 1.0, 1.0), linear=True)
    np.testing.assert_allclose(fine[:, 0, 0], [1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7])


def test_one_voxel_thick_axes_are_held_constant():
    flat = np.ones((1, 3, 1), dtype=np.float32)
    grid = [np.array([-1.0, 0.0, 2.0]), np.arange(3.0), np.array([0.4])]
    np.testing.assert_array_equal(sample(flat, grid, linear=True), np.ones((3, 3, 1)))


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("steps", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_values_do_not_depend_on_how_a_view_lies_in_memory(axes, steps):
    view = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32).transpose(axes)
    view = view[:: steps[0], :: steps[1], :: steps[2]]
    grid = [np.array([0.2, 1.7, 3.9]), np.array([0.0, 0.1]), np.array([4.5, 2.25, 1.0, 0.5])]
    expected = sample(np.ascontiguousarray(view), grid, linear=True)
    np.testing.assert_allclose(sample(view, grid, linear=True), expected, atol=1e-6)
    by_hand = view[:, 0, 1]  # at position (0.2, 0, 1)
    assert expected[0, 0, 2] == pytest.approx(by_hand[0] * 0.8 + by_hand[1] * 0.2, abs=1e-6)
