"""Lesion-wise scores worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bratsml.metrics.instances import find_instances
from bratsml.metrics.lesions import missing_case, score_lesions
from bratsml.metrics.rules import RULES, Rule

MM = (1.0, 1.0, 1.0)
RULE = Rule("test", "brats2023", ("WT",), dilation=1, threshold_mm3=2)
WIDE = replace(RULE, dilation=3)
SHAPE = (14, 8, 8)
EMPTY = np.zeros(SHAPE, bool)


def block(*ranges, shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*r) for r in ranges)] = True
    return mask


def bar(start, stop, side=2):
    """A block along X, ``side`` voxels wide and high."""
    return block((start, stop), (2, 2 + side), (2, 2 + side))


def score(prediction, reference, rule=RULE, spacing=MM):
    (found,) = score_lesions({"WT": prediction}, {"WT": reference}, spacing, rule)
    return found


def counts(found):
    return found.num_matched, found.num_missed, found.num_false


def test_a_perfect_lesion():
    found = score(bar(3, 5), bar(3, 5))
    assert (found.lesion_dice, found.lesion_hd95_mm) == (1.0, 0.0)
    assert counts(found) == (1, 0, 0)


def test_two_lesions_and_one_prediction_over_both():
    # 8 + 8 voxels of the reference, 32 predicted: each lesion is compared with all 32
    found = score(bar(0, 8), bar(0, 2) | bar(6, 8))
    assert counts(found) == (2, 0, 0)
    assert found.lesion_dice == pytest.approx(2 * 8 / (8 + 32))
    # the far end of the prediction, 8 % of its surface, is 6 mm from either lesion
    assert found.lesion_hd95_mm == pytest.approx(6.0)
    assert found.dice == pytest.approx(2 * 16 / (16 + 32))


def test_one_lesion_and_two_predictions():
    found = score(bar(0, 2) | bar(6, 8), bar(0, 8))
    assert counts(found) == (1, 0, 0)
    assert found.lesions[0].num_matches == 2
    assert found.lesion_dice == pytest.approx(2 * 16 / (16 + 32))
    # the middle ring of the lesion, 12 % of its surface, is 2 mm from both
    assert found.lesion_hd95_mm == pytest.approx(2.0)


def test_a_prediction_just_within_the_dilation_belongs_to_the_lesion():
    lesion = bar(0, 3, side=3)
    found = score(lesion | bar(5, 7), lesion, WIDE)  # its first voxel is 3 from the lesion's last
    assert counts(found) == (1, 0, 0)
    assert found.lesions[0].num_matches == 2
    assert found.lesion_dice == pytest.approx(2 * 27 / (27 + 27 + 8))


def test_a_prediction_just_beyond_the_dilation_is_false():
    lesion = bar(0, 3, side=3)
    found = score(lesion | bar(6, 8), lesion, WIDE)
    assert counts(found) == (1, 0, 1)
    assert found.lesion_dice == pytest.approx(1 / 2)
    assert found.lesion_hd95_mm == pytest.approx(374 / 2)


def test_a_dilation_reaches_edge_neighbours_but_no_corner_neighbours():
    lesion = block((0, 3), (0, 3), (0, 3))
    by_edge, by_corner = block((3, 6), (3, 6), (0, 3)), block((3, 6), (3, 6), (3, 6))
    assert counts(score(by_edge, lesion)) == (1, 0, 0)
    assert counts(score(by_corner, lesion)) == (0, 1, 1)


def test_lesions_of_the_reference_that_grow_together_are_one():
    # with three voxels between them one is left when both have grown; with two none is
    assert counts(score(EMPTY, bar(0, 3) | bar(6, 9))) == (0, 2, 0)
    two = bar(0, 3) | bar(5, 8)
    assert counts(score(EMPTY, two)) == (0, 1, 0)
    assert score(EMPTY, two).lesions[0].volume_mm3 == 24


@pytest.mark.parametrize(("size", "number"), [(2, 0), (3, 1)])
def test_a_lesion_must_be_above_the_threshold(size, number):
    lesion = block((0, size), (0, 1), (0, 1))
    found = score(EMPTY, lesion)
    assert counts(found) == (0, number, 0)
    assert found.lesion_dice == (0.0 if number else 1.0)
    assert found.lesion_hd95_mm == (374.0 if number else 0.0)
    assert counts(score(lesion, lesion)) == (number, 0, 0)


def test_a_prediction_that_only_a_small_lesion_explains_neither_helps_nor_hurts():
    small, large = block((0, 2), (0, 1), (0, 1)), bar(6, 9)
    found = score(large | small, large | small)
    assert counts(found) == (1, 0, 0)
    assert found.lesion_dice == 1.0
    # without the small lesion in the reference the same prediction is false
    assert counts(score(large | small, large)) == (1, 0, 1)


def test_both_empty():
    found = score(EMPTY, EMPTY, replace(RULE, tolerances_mm=(1.0,)))
    assert (found.dice, found.hd95_mm, found.nsd) == (1.0, 0.0, (1.0,))
    assert (found.lesion_dice, found.lesion_hd95_mm, found.lesion_nsd) == (1.0, 0.0, (1.0,))
    assert (found.sensitivity, found.specificity) == (1.0, 1.0)


@pytest.mark.parametrize("swapped", [False, True])
def test_one_empty(swapped):
    pair = (EMPTY, bar(0, 3)) if swapped else (bar(0, 3), EMPTY)
    found = score(*pair, replace(RULE, tolerances_mm=(1.0,)))
    assert counts(found) == ((0, 1, 0) if swapped else (0, 0, 1))
    assert (found.dice, found.hd95_mm, found.nsd) == (0.0, 374.0, (0.0,))
    assert (found.lesion_dice, found.lesion_hd95_mm, found.lesion_nsd) == (0.0, 374.0, (0.0,))
    assert found.sensitivity == 0.0


def test_volumes_are_in_mm3_and_distances_in_mm():
    one, other = block((0, 1), (0, 2), (0, 1)), block((1, 2), (0, 2), (0, 1))
    assert counts(score(one, one)) == (0, 0, 0)  # 2 mm3: at the threshold
    found = score(one, other, spacing=(3.0, 1.0, 1.0))
    assert counts(found) == (1, 0, 0)  # 6 mm3
    assert found.lesions[0].volume_mm3 == 6.0
    assert found.lesion_hd95_mm == pytest.approx(3.0)
    # a voxel's centre is 3 mm from that of the nearest
    for tolerance, share in ((2.9, 0.0), (3.0, 1.0)):
        rule = replace(RULE, tolerances_mm=(tolerance,))
        assert score(one, other, rule, (3.0, 1.0, 1.0)).lesion_nsd == (share,)


def test_surface_dice_is_the_mean_of_both_sides_shares():
    # a row of 4 voxels against its first 1: of the row 2 of 4 are within 1 mm, of the other all
    found = score(
        block((0, 1), (0, 1), (0, 1)),
        block((0, 4), (0, 1), (0, 1)),
        replace(RULE, tolerances_mm=(0.5, 1.0)),
    )
    assert found.nsd == ((1 / 4 + 1) / 2, (2 / 4 + 1) / 2)
    assert found.lesion_nsd == found.nsd


def test_the_filter_drops_predictions_up_to_the_threshold():
    small, large = block((0, 2), (0, 1), (0, 1)), bar(6, 9)
    filtered = replace(RULE, prediction_filter="voxels")
    assert counts(score(large | small, large, filtered)) == (1, 0, 0)
    assert score(large | small, large, filtered).dice == 1.0
    assert score(large | small, large, filtered).prediction_mm3 == 12
    # two voxels are 4 mm3 here: more than 2 mm3, and no more than two voxels
    thick = (2.0, 1.0, 1.0)
    assert counts(score(large | small, large, filtered, thick)) == (1, 0, 0)
    by_volume = replace(RULE, prediction_filter="mm3")
    assert counts(score(large | small, large, by_volume, thick)) == (1, 0, 1)


def test_with_a_filter_predictions_merge_by_dilation_too():
    # two false lesions that grow together are one, and together they are above the threshold
    parts = block((0, 2), (0, 1), (0, 1)) | block((4, 6), (0, 1), (0, 1))
    assert counts(score(parts, EMPTY)) == (0, 0, 2)
    assert counts(score(parts, EMPTY, replace(RULE, prediction_filter="voxels"))) == (0, 0, 1)


def test_false_lesions_may_go_unpunished():
    lesion = bar(0, 3)
    found = score(lesion | bar(8, 11), lesion, replace(RULE, count_false_lesions=False))
    assert counts(found) == (1, 0, 1)
    assert (found.lesion_dice, found.lesion_hd95_mm) == (1.0, 0.0)
    found = score(lesion, EMPTY, replace(RULE, count_false_lesions=False))
    assert (found.lesion_dice, found.dice) == (1.0, 0.0)


def test_the_penalty_may_be_the_diagonal_in_voxels():
    found = score(EMPTY, bar(0, 3), replace(RULE, penalty_mm=None), (2.0, 2.0, 2.0))
    assert found.lesion_hd95_mm == pytest.approx(math.sqrt(14**2 + 8**2 + 8**2))


# Enhancing tumour in up to three places along X, necrosis between them: a-1-b-2-c
MERGING = replace(RULE, regions=("ET",), dilation=0, partners=(("ET", ("NETC",)),))


def tissue(*places):
    return sum((block((x, x + 2), (2, 4), (2, 4)) for x in places), EMPTY.copy()) > 0


def number_of_lesions(enhancing, necrosis):
    masks = {"ET": enhancing, "NETC": necrosis}
    (found,) = score_lesions({"ET": EMPTY, "NETC": EMPTY}, masks, MM, MERGING)
    return found.num_missed


def test_lesions_that_touch_the_same_lesion_of_a_partner_are_one():
    assert number_of_lesions(tissue(0, 4), EMPTY) == 2
    assert number_of_lesions(tissue(0, 4), tissue(2)) == 1


def test_a_lesion_goes_with_the_first_partner_it_touches():
    # b touches both: it goes with a, by partner 1, and c stays alone though it shares partner 2
    assert number_of_lesions(tissue(0, 4, 8), tissue(2, 6)) == 2


def test_predictions_merge_across_partners_as_well():
    filtered = replace(MERGING, prediction_filter="voxels")
    masks = {"ET": tissue(0, 4), "NETC": tissue(2)}
    nothing = {"ET": EMPTY, "NETC": EMPTY}
    (found,) = score_lesions(masks, nothing, MM, filtered)
    assert found.num_false == 1
    (found,) = score_lesions(masks | {"NETC": EMPTY}, nothing, MM, filtered)
    assert found.num_false == 2


def test_necrosis_follows_from_core_and_enhancing_tumour():
    rule = replace(MERGING, regions=("TC", "ET"))
    core = {"TC": tissue(0, 2, 4), "ET": tissue(0, 4)}
    nothing = dict.fromkeys(core, EMPTY)
    _, enhancing = score_lesions(nothing, core, MM, rule)
    assert enhancing.num_missed == 1


def test_a_part_of_the_volume_gives_what_the_whole_gives():
    rule = replace(RULE, penalty_mm=None)
    prediction, reference = bar(4, 7) | bar(10, 12), bar(5, 8)
    part = (slice(3, 13), slice(1, 6), slice(1, 7))
    (expected,) = score_lesions({"WT": prediction}, {"WT": reference}, MM, rule)
    (found,) = score_lesions(
        {"WT": prediction[part]}, {"WT": reference[part]}, MM, rule, shape=SHAPE
    )
    assert found == expected


def test_threads_change_nothing():
    rng = np.random.default_rng(0)
    regions = ("WT", "TC", "ET")
    masks = [{r: rng.random((9, 9, 9)) < 0.1 for r in regions} for _ in range(2)]
    rule = RULES["brats2025-ssa"]
    assert score_lesions(*masks, MM, rule, threads=3) == score_lesions(*masks, MM, rule)


def test_sensitivity_and_specificity_are_those_of_voxels():
    found = score(bar(0, 4), bar(2, 6))  # 16 voxels each, 8 shared, of 14 * 8 * 8
    assert found.sensitivity == 0.5
    assert found.specificity == pytest.approx((896 - 24) / (896 - 16))


@pytest.mark.parametrize(("name", "hd95"), [("brats2025-gli", 337.0), ("brats2025-met", 374.0)])
def test_a_missing_case_gets_the_worst(name, hd95):
    rule = RULES[name]
    found = missing_case(rule)
    assert [one.region for one in found] == list(rule.regions)
    for one in found:
        assert (one.dice, one.hd95_mm, one.nsd) == (0.0, hd95, (0.0, 0.0))
        assert (one.lesion_dice, one.lesion_hd95_mm, one.lesion_nsd) == (0.0, hd95, (0.0, 0.0))


def test_a_missing_mask_is_named():
    with pytest.raises(ValueError, match=r"brats2024-ssa needs a mask of TC"):
        score_lesions({"WT": EMPTY}, {"WT": EMPTY}, MM, RULES["brats2024-ssa"])


def test_probabilities_are_refused():
    with pytest.raises(ValueError, match="must be boolean"):
        score(EMPTY.astype(float), EMPTY)


def test_a_single_row_of_voxels_has_its_lesions():
    row = np.array([[[True, False, True, False, True]]])
    assert len(find_instances(row, 0).numbers) == 3
    assert len(find_instances(row.reshape(5, 1, 1), 0).numbers) == 3
