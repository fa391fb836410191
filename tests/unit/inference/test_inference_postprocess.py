"""Every post-processing step on volumes one can draw, and the nesting of regions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bratsml.config import Config
from bratsml.errors import ConfigError
from bratsml.inference.postprocess import (
    DropIfSmall,
    FillHoles,
    MaxComponents,
    MinComponent,
    MinMeanProbability,
    Regions,
    Threshold,
    bounding_box,
    components,
    postprocess,
)
from bratsml.labels import get_scheme

SCHEME = get_scheme("brats2021")
NAMES = ("ET", "TC", "WT")
REGIONS = Regions.of(SCHEME, NAMES)


def line(*rows: str) -> np.ndarray:
    """Masks (R, 1, 1, Z) from rows like ``.##.``."""
    return np.array([[[[c == "#" for c in row]]] for row in rows])


def drawn(masks: np.ndarray) -> list[str]:
    return ["".join("#" if v else "." for v in mask[0, 0]) for mask in masks]


def after(step: Any, *rows: str, probabilities: np.ndarray | None = None) -> list[str]:
    masks = line(*rows)
    given = masks * 0.9 if probabilities is None else probabilities
    return drawn(postprocess(masks, given, REGIONS, [step]))


def test_which_region_lies_inside_which():
    assert REGIONS.inner == {"ET": (), "TC": ("ET",), "WT": ("ET", "TC")}


def test_without_steps_masks_are_nested_and_the_given_ones_untouched():
    masks = line("#...", ".#..", "..#.")
    assert drawn(postprocess(masks, masks * 1.0, REGIONS, [])) == ["#...", "##..", "###."]
    assert drawn(masks) == ["#...", ".#..", "..#."]


def test_nested_masks_say_the_same_as_their_label_map():
    masks = line("#....", ".#...", "..#..")
    nested = postprocess(masks, masks * 1.0, REGIONS, [])
    label_map = SCHEME.label_map(nested, NAMES)
    np.testing.assert_array_equal(SCHEME.region_stack(label_map, NAMES), nested)


def test_threshold_by_region():
    p = np.array([[[[0.1, 0.4, 0.6, 0.9]]]] * 3)
    step = Threshold(above={"ET": 0.7, "WT": 0.3})
    rows = after(step, "..##", "..##", "..##", probabilities=p)
    assert rows == ["...#", "..##", ".###"]


def test_small_components_go_with_what_is_inside_them():
    step = MinComponent(region="WT", voxels=3)
    assert after(step, "#...#..", "##..#..", "##.###.") == ["....#..", "....#..", "...###."]


def test_the_largest_components_stay():
    step = MaxComponents(region="TC", count=1)
    assert after(step, ".......", "#.##.#.", "#.##.##") == [".......", "..##...", "#.##.##"]
    twice = MaxComponents(region="WT", count=5)
    assert after(twice, "...", "...", "#.#")[2] == "#.#"


def test_doubtful_components_go():
    p = np.array([[[[0.6, 0.6, 0.0, 0.6, 0.95]]]] * 3)
    step = MinMeanProbability(region="ET", value=0.7)
    rows = after(step, "##.##", "##.##", "##.##", probabilities=p)
    assert rows == ["...##", "##.##", "##.##"]


def test_holes_are_filled_in_the_regions_around_too():
    masks = np.zeros((3, 3, 3, 3), bool)
    masks[1] = True
    masks[1, 1, 1, 1] = False
    filled = postprocess(masks, masks * 1.0, REGIONS, [FillHoles(region="TC")])
    assert filled[1].all()
    assert filled[2].all()
    assert not filled[0].any()


@pytest.mark.parametrize(("voxels", "expected"), [(2, "##..."), (3, ".....")])
def test_little_enhancing_tumour_becomes_core(voxels: int, expected: str):
    rows = after(DropIfSmall(region="ET", voxels=voxels), "##...", "##...", "####.")
    assert rows == [expected, "##...", "####."]


def test_steps_follow_their_order():
    masks = line("....", "....", "##.#")
    small_first = [MinComponent(region="WT", voxels=2), MaxComponents(region="WT", count=1)]
    assert drawn(postprocess(masks, masks * 1.0, REGIONS, small_first))[2] == "##.."


@pytest.mark.parametrize(
    "step",
    [Threshold(above={"NCR": 0.5}), MinComponent(region="NCR", voxels=2)],
    ids=lambda step: step.kind if isinstance(step, Config) else None,
)
def test_unknown_regions_are_refused(step: Any):
    with pytest.raises(ConfigError, match="'NCR'; the network gives ET, TC, WT"):
        after(step, "#", "#", "#")


def test_corners_touch_and_sizes_add_up():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    numbered, sizes = components(mask)
    assert sorted(sizes[1:]) == [1, 2]
    assert numbered[0, 0, 0] == numbered[1, 1, 1] != numbered[3, 3, 3]
    assert sizes.sum() == 64


def test_box_of_nothing_is_empty():
    assert bounding_box(np.zeros((2, 3, 4), bool)) == (slice(0, 0),) * 3
    mask = np.zeros((2, 3, 4), bool)
    mask[1, 1, 2] = True
    assert bounding_box(mask) == (slice(1, 2), slice(1, 2), slice(2, 3))
    assert components(np.zeros((2, 2, 2), bool))[1].tolist() == [8]
