from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bratsml.errors import ConfigError
from bratsml.labels import SCHEMES, get_scheme


def volume(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint8).reshape(len(values), 1, 1)


@pytest.mark.parametrize(
    ("scheme", "label_map", "et", "tc", "wt"),
    [
        # voxels:        bg, necrosis, oedema, enhancing
        ("brats2021", (0, 1, 2, 4), (0, 0, 0, 1), (0, 1, 0, 1), (0, 1, 1, 1)),
        ("brats2023", (0, 1, 2, 3), (0, 0, 0, 1), (0, 1, 0, 1), (0, 1, 1, 1)),
        ("decathlon", (0, 2, 1, 3), (0, 0, 0, 1), (0, 1, 0, 1), (0, 1, 1, 1)),
        # the resection cavity (4) is in neither TC nor WT
        ("brats2024-gli", (4, 1, 2, 3), (0, 0, 0, 1), (0, 1, 0, 1), (0, 1, 1, 1)),
        # cystic component (3) is in TC
        ("brats2024-ped", (0, 3, 4, 1), (0, 0, 0, 1), (0, 1, 0, 1), (0, 1, 1, 1)),
    ],
)
def test_regions_of_each_year(
    scheme: str, label_map: tuple[int, ...], et: tuple, tc: tuple, wt: tuple
) -> None:
    stack = get_scheme(scheme).region_stack(volume(*label_map))
    for mask, expected in zip(stack, (et, tc, wt), strict=True):
        assert mask.ravel().astype(int).tolist() == list(expected)


CLASSIC = ["brats2021", "brats2023", "decathlon"]


@pytest.mark.parametrize("name", CLASSIC)
@given(data=st.data())
def test_label_map_to_regions_and_back_is_the_same(name: str, data: st.DataObject) -> None:
    scheme = get_scheme(name)
    label_map = data.draw(arrays(np.uint8, (3, 2, 2), elements=st.sampled_from(scheme.values)))
    assert (scheme.label_map(scheme.region_stack(label_map)) == label_map).all()


@pytest.mark.parametrize("name", ["brats2024-gli", "brats2024-ped", "brats2024-men-rt"])
@given(data=st.data())
def test_all_regions_of_a_scheme_carry_its_whole_label_map(name: str, data: st.DataObject) -> None:
    scheme = get_scheme(name)
    regions = tuple(scheme.regions)
    label_map = data.draw(arrays(np.uint8, (3, 2, 2), elements=st.sampled_from(scheme.values)))
    assert (scheme.label_map(scheme.region_stack(label_map, regions), regions) == label_map).all()


def test_enhancing_tumour_outside_the_core_still_becomes_enhancing() -> None:
    stack = np.zeros((3, 1, 1, 1), dtype=bool)
    stack[0] = True
    assert get_scheme("brats2021").label_map(stack).item() == 4


def test_unknown_values_come_with_their_counts() -> None:
    found = get_scheme("brats2021").unknown_values(np.array([0.0, 3, 3, 4, -1]))
    assert found == {3.0: 2, -1.0: 1}


def test_every_painted_value_lies_in_its_region() -> None:
    for scheme in SCHEMES.values():
        for region, value in scheme.painting:
            assert value in scheme.regions[region]


def test_unknown_scheme_or_region_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="brats2021"):
        get_scheme("brats1999")
    with pytest.raises(ConfigError, match=r"'RC'.*ET, TC, WT"):
        get_scheme("brats2021").region_stack(volume(0), ("RC",))
