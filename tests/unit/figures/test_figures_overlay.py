import math

import numpy as np
import pytest
from matplotlib.colors import to_hex

from bratsml.figures.overlay import COLOURS, busiest_slice, overlay_figure, region_colour
from bratsml.labels import SCHEMES

REGIONS = ("ET", "TC", "WT")
SHAPE = (12, 16, 6)


def head():
    """Four modalities of a flat brain with a bright voxel: right, front, slice 2."""
    image = np.zeros((4, *SHAPE), np.float32)
    image[:, 2:10, 2:14, 1:5] = 100
    image[:, 9, 13, 2] = 200
    return image


def masks(z=2):
    stack = np.zeros((3, *SHAPE), bool)
    for index, reach in enumerate((1, 2, 3)):  # ET within TC within WT
        stack[index, 6 - reach : 6 + reach, 6 - reach : 6 + reach, z] = True
    return stack


def draw(image=None, reference=None, prediction=None, regions=REGIONS, **more):
    reference = masks() if reference is None else reference
    return overlay_figure(
        head() if image is None else image,
        reference,
        reference if prediction is None else prediction,
        regions,
        "worst: A",
        **more,
    )


def test_panes_are_titled_in_the_order_of_the_modalities():
    image = head() * np.array([1, 2, 3, 4]).reshape(-1, 1, 1, 1)
    panes = draw(image).axes
    assert [pane.get_title() for pane in panes] == ["t1n", "t1c", "t2w", "t2f"]
    shown = [pane.images[0].get_array().max() for pane in panes]
    assert shown == [200, 400, 600, 800]


def test_front_is_up_and_the_right_of_the_patient_is_left():
    picture = draw().axes[0].images[0].get_array()
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    assert row < picture.shape[0] / 2  # Y grows towards the front
    assert column < picture.shape[1] / 2  # X grows towards the patient's right


def test_only_the_brain_and_a_margin_are_shown():
    picture = draw(
        np.pad(head(), [(0, 0), (30, 30), (30, 30), (0, 0)]),
        np.pad(masks(), [(0, 0), (30, 30), (30, 30), (0, 0)]),
    )
    assert picture.axes[0].images[0].get_array().shape == (12 + 6, 8 + 6)


def test_prediction_is_filled_and_reference_outlined():
    nothing = np.zeros((3, *SHAPE), bool)
    filled = draw(reference=nothing, prediction=masks()).axes[0]
    outlined = draw(reference=masks(), prediction=nothing).axes[0]
    tints = filled.images[1].get_array()
    assert tints[..., 3].astype(bool).sum() == 6 * 6
    assert not filled.collections
    assert not outlined.images[1].get_array()[..., 3].any()
    assert {to_hex(line.get_edgecolor()[0]) for line in outlined.collections} == {
        COLOURS[region] for region in REGIONS
    }


def test_inner_regions_lie_over_outer_ones_whatever_their_order():
    for order in ((0, 1, 2), (2, 0, 1)):
        stack, names = masks()[list(order)], [REGIONS[i] for i in order]
        pane = draw(reference=stack, regions=names).axes[0]
        tints = pane.images[1].get_array()
        colours = {to_hex(c[:3]): n for c, n in zip(*_counted(tints), strict=True)}
        assert colours == {COLOURS["ET"]: 4, COLOURS["TC"]: 16 - 4, COLOURS["WT"]: 36 - 16}
        widths = {to_hex(c.get_edgecolor()[0]): c.get_linewidth()[0] for c in pane.collections}
        assert widths[COLOURS["ET"]] < widths[COLOURS["TC"]] < widths[COLOURS["WT"]]
        heights = {to_hex(c.get_edgecolor()[0]): c.get_zorder() for c in pane.collections}
        assert heights[COLOURS["ET"]] > heights[COLOURS["TC"]] > heights[COLOURS["WT"]]


def _counted(tints):
    tinted = tints[tints[..., 3] > 0]
    return np.unique(tinted, axis=0, return_counts=True)


def test_legend_names_the_regions_and_how_they_are_drawn():
    texts = [text.get_text() for text in draw().legends[0].get_texts()]
    assert texts == ["ET", "TC", "WT", "line: reference", "filling: prediction"]


def test_title_holds_the_dice_and_the_slice():
    plain = draw().get_suptitle()
    scored = draw(dice={"ET": 0.5, "TC": math.nan, "WT": 0.91234}).get_suptitle()
    assert plain == "worst: A   slice 2"
    assert scored == "worst: A   Dice ET 0.500, TC –, WT 0.912   slice 2"


def test_slice_with_most_tumour():
    nothing, small, large = (np.zeros((1, 4, 4, 5), bool) for _ in range(3))
    small[0, 1, 1, 3] = True
    large[0, 1:3, 1:3, 1] = True
    assert busiest_slice(small, large) == 3  # the reference decides
    assert busiest_slice(nothing, large) == 1
    assert busiest_slice(nothing, nothing) == 2


@pytest.mark.parametrize("image", [np.zeros((4, *SHAPE)), np.full((4, *SHAPE), 7.0)])
def test_flat_images_and_empty_masks_can_be_drawn(image):
    figure = draw(image, np.zeros((3, *SHAPE), bool))
    figure.canvas.draw()
    assert len(figure.axes) == 4


def test_tumour_at_the_border_is_outlined_within_the_pane():
    stack = np.ones((3, *SHAPE), bool)
    pane = draw(np.ones((4, *SHAPE)), stack).axes[0]
    assert pane.get_xlim() == (-0.5, 11.5)
    assert pane.get_ylim() == (15.5, -0.5)
    # each line runs all around the slice
    for line in pane.collections:
        assert np.ptp(line.get_paths()[0].vertices, axis=0) == pytest.approx((12, 16))


def test_drawing_keeps_out_of_the_global_state_of_pyplot():
    import matplotlib.pyplot as plt

    draw()
    assert plt.get_fignums() == []


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 5.0), (1.0, 2.0, 1.0), (0.9, 0.3, 1.0)])
def test_a_millimetre_is_as_long_sideways_as_upwards(spacing):
    figure = draw(spacing_mm=spacing)
    figure.canvas.draw()
    for pane in figure.axes:
        (left, bottom), (right, top) = pane.transData.transform([(0, 1), (1, 0)])
        across, up = (right - left) / spacing[0], (top - bottom) / spacing[1]
        assert across == pytest.approx(up)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda scheme: scheme.name)
def test_regions_of_every_scheme_keep_one_colour_apart_from_the_others(scheme):
    colours = [{region_colour(name, index) for index in range(9)} for name in scheme.regions]
    assert all(len(of_region) == 1 for of_region in colours)
    assert len(set.union(*colours)) == len(scheme.regions)


def test_regions_without_a_colour_of_their_own_get_distinct_ones():
    names = ("ET", "A", "B", "C")
    assert len({region_colour(name, index) for index, name in enumerate(names)}) == 4
