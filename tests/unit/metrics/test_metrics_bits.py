import numpy as np
import pytest
from scipy import ndimage

from bratsml.metrics import bits

SHAPES = [(1, 1, 1), (3, 4, 5), (2, 3, 63), (3, 2, 64), (2, 2, 65), (4, 3, 130)]


def masks(shape):
    rng = np.random.default_rng(sum(shape))
    return [rng.random(shape) < share for share in (0.02, 0.3, 0.9)]


@pytest.mark.parametrize("shape", SHAPES)
def test_packing_loses_nothing(shape):
    for mask in (*masks(shape), np.zeros(shape, bool), np.ones(shape, bool)):
        words = bits.pack(mask)
        assert np.array_equal(bits.unpack(words, shape), mask)
        assert np.array_equal(bits.indices(words, shape), np.flatnonzero(mask))
        assert bits.count(words) == mask.sum()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("times", [1, 2, 5])
def test_dilation_is_that_of_faces_and_edges(shape, times):
    structure = ndimage.generate_binary_structure(3, 2)
    for mask in masks(shape):
        expected = ndimage.binary_dilation(mask, structure, iterations=times)
        found = bits.unpack(bits.dilate(bits.pack(mask), shape, times), shape)
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_boundary_is_what_an_erosion_by_faces_takes(shape):
    for mask in masks(shape):
        found = bits.unpack(bits.boundary(bits.pack(mask)), shape)
        assert np.array_equal(found, mask & ~ndimage.binary_erosion(mask))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 2.0, 0.9), (3.0, 0.3, 0.02)])
def test_near_is_within_the_distance(shape, spacing):
    for mask in masks(shape):
        if not mask.any():
            continue
        away = ndimage.distance_transform_edt(~mask, spacing)
        for distance in (0.0, 0.5, 1.0, 1.8):
            found = bits.unpack(bits.near(bits.pack(mask), shape, spacing, distance), shape)
            assert np.array_equal(found, away <= distance)


def test_corners_where_inside_and_outside_meet():
    mask = np.zeros((5, 5, 5), bool)
    mask[1:4, 1:4, 1:4] = True  # its corners are 1 to 4 along each axis
    found = bits.unpack(bits.mixed_corners(bits.pack(mask)), mask.shape)
    expected = np.zeros(mask.shape, bool)
    expected[1:5, 1:5, 1:5] = True
    expected[2:4, 2:4, 2:4] = False
    assert np.array_equal(found, expected)
