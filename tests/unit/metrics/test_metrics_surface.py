import numpy as np
import pytest
from scipy.spatial.distance import cdist

from bratsml.metrics.surface import hausdorff95_mm, surface_of

MM = (1.0, 1.0, 1.0)


def block(shape, *ranges):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def by_definition(prediction, reference, spacing):
    """HD95 from all pairs of voxels with a face neighbour outside the mask."""
    points = []
    for mask in (prediction, reference):
        padded = np.pad(mask, 1)
        inner = padded.copy()
        for axis in range(3):
            for step in (-1, 1):
                inner &= np.roll(padded, step, axis)
        points.append(np.argwhere(padded & ~inner) * np.asarray(spacing))
    distances = cdist(*points)
    return max(np.percentile(distances.min(axis=axis), 95) for axis in (0, 1))


def test_surface_of_a_cube_leaves_its_inside():
    surface = surface_of(block((5, 5, 5), (1, 4), (1, 4), (1, 4)))
    assert surface.sum() == 26
    assert not surface[2, 2, 2]


def test_voxels_at_the_border_of_the_volume_are_surface():
    assert surface_of(np.ones((3, 3, 3), bool)).sum() == 26


@pytest.mark.parametrize(
    ("spacing", "expected"), [(MM, 2.0), ((3.0, 1.0, 1.0), 6.0), ((1.0, 5.0, 5.0), 2.0)]
)
def test_shift_of_one_voxel_plane(spacing, expected):
    # two parallel planes two voxels apart along X: every distance is two voxel sizes
    one = block((5, 4, 4), (1, 2), (0, 4), (0, 4))
    other = block((5, 4, 4), (3, 4), (0, 4), (0, 4))
    assert hausdorff95_mm(one, other, spacing) == pytest.approx(expected)


def test_percentile_of_a_line_with_an_outlier():
    # from the line of 20 voxels and one voxel 10 mm beyond: distances are 20 times 0 and once 10,
    # and the 95th percentile of 21 values is the 20th of them in rising order: 0
    line = block((32, 1, 1), (0, 20), (0, 1), (0, 1))
    far = line.copy()
    far[29] = True
    assert hausdorff95_mm(far, line, MM) == 0.0
    # of 11 values the percentile lies half-way between the last two: 0 and 10
    short = block((32, 1, 1), (0, 10), (0, 1), (0, 1))
    far = short.copy()
    far[19] = True
    assert hausdorff95_mm(far, short, MM) == pytest.approx(5.0)


def test_the_larger_direction_counts():
    # all of the point lies on the block, but the block reaches 4 voxels away from the point
    point = block((9, 1, 1), (0, 1), (0, 1), (0, 1))
    rod = block((9, 1, 1), (0, 5), (0, 1), (0, 1))
    expected = np.percentile([0, 1, 2, 3, 4], 95)  # 3.8
    assert hausdorff95_mm(point, rod, MM) == pytest.approx(expected)
    assert hausdorff95_mm(rod, point, MM) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_against_all_pairs_of_surface_voxels(seed):
    rng = np.random.default_rng(seed)
    prediction, reference = rng.random((2, 7, 6, 5)) < rng.uniform(0.05, 0.9)
    spacing = tuple(rng.uniform(0.5, 3, size=3))
    expected = by_definition(prediction, reference, spacing)
    assert hausdorff95_mm(prediction, reference, spacing) == pytest.approx(expected)
