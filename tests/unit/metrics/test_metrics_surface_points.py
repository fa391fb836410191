import math

import numpy as np
import pytest

from bratsml.metrics.surface_points import element_areas_mm2, surface_points

MM = (1.0, 1.0, 1.0)


def total_area(mask, spacing=MM):
    return surface_points(mask.astype(np.int32), spacing, "elements").weights.sum()


def test_one_voxel_has_the_surface_of_an_octahedron():
    # eight triangles with corners in the middle of the edges of cubes around it
    mask = np.zeros((3, 3, 3), bool)
    mask[1, 1, 1] = True
    assert total_area(mask) == pytest.approx(math.sqrt(3))
    assert total_area(mask, (2.0, 2.0, 2.0)) == pytest.approx(4 * math.sqrt(3))


def test_a_wall_through_the_volume_has_the_area_of_its_faces():
    areas = element_areas_mm2((2.0, 3.0, 5.0))
    bit = {(i, j, k): 1 << (4 * i + 2 * j + k) for i in (0, 1) for j in (0, 1) for k in (0, 1)}
    for axis, area in enumerate((15.0, 10.0, 6.0)):
        half = sum(value for voxel, value in bit.items() if voxel[axis])
        assert areas[half] == pytest.approx(area)
        assert areas[255 - half] == pytest.approx(area)


def test_an_edge_along_x_is_cut_obliquely():
    # through the middles of two faces of 2 x 3 mm and 2 x 4 mm: 2 mm long, hypot(1.5, 2) mm wide
    areas = element_areas_mm2((2.0, 3.0, 4.0))
    along_x = (1 << 0) | (1 << 4)  # voxels (0, 0, 0) and (1, 0, 0)
    assert areas[along_x] == pytest.approx(2.0 * math.hypot(1.5, 2.0))


def test_only_empty_and_full_cubes_have_no_surface():
    areas = element_areas_mm2(MM)
    assert np.flatnonzero(areas == 0).tolist() == [0, 255]


@pytest.mark.parametrize("kind", ["voxels", "elements"])
def test_every_instance_has_the_surface_it_has_alone(kind):
    labels = np.zeros((9, 6, 6), np.int32)
    labels[0:3, 1:4, 1:4] = 4
    labels[5:9, 2:6, 2:6] = 7
    both = surface_points(labels, (1.0, 2.0, 3.0), kind)
    for label in (4, 7):
        alone = surface_points(np.where(labels == label, labels, 0), (1.0, 2.0, 3.0), kind)
        part = both.part(np.array([label]))
        assert np.array_equal(part.positions, alone.positions)
        assert np.allclose(part.weights, alone.weights)
    assert both.part(np.array([4, 7])) is both
