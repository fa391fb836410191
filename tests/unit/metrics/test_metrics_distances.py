import numpy as np
import pytest
from scipy.spatial.distance import cdist

from bratsml.metrics.distances import hausdorff_of, measure, nearest, percentile
from bratsml.metrics.surface_points import SurfacePoints


def cloud(rng, number, room, kind):
    positions = np.unique(rng.integers(0, room, (number, 3)), axis=0)
    owners = np.ones(len(positions), np.int32)
    weights = np.ones(len(positions)) if kind == "voxels" else rng.uniform(0.2, 1.3, len(positions))
    return SurfacePoints(positions, weights, owners)


def by_all_pairs(start, target, spacing):
    scale = np.asarray(spacing)
    return cdist(start.positions * scale, target.positions * scale).min(axis=1)


@pytest.mark.parametrize("kind", ["voxels", "elements"])
@pytest.mark.parametrize("seed", range(8))
def test_the_shortcut_gives_the_percentile_of_all_distances(seed, kind):
    rng = np.random.default_rng(seed)
    spacing = tuple(rng.uniform(0.3, 3, 3))
    room = int(rng.integers(2, 60))
    first, second = (cloud(rng, int(rng.integers(1, 400)), room, kind) for _ in range(2))
    for percent in (0, 50, 95, 100):
        found = hausdorff_of(first, second, spacing, percent, kind)
        assert found == percentile(measure(first, second, spacing), percent, kind)
        if kind == "voxels":
            mm = by_all_pairs(first, second, spacing), by_all_pairs(second, first, spacing)
            expected = max(np.percentile(one, percent) for one in mm)
            assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_far_distances_may_be_given_as_infinite():
    target = SurfacePoints(np.zeros((1, 3), np.int64), np.ones(1), np.ones(1, np.int32))
    positions = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [9, 0, 0]])
    found = nearest(positions, target, (0.3, 1.0, 1.0), limit_mm=0.6)
    assert found[:3].tolist() == [0.0, 0.3, 0.6]
    assert np.isinf(found[3])
