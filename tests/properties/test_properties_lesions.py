import math

import hypothesis.extra.numpy as arrays
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bratsml.metrics.lesions import score_lesions
from bratsml.metrics.rules import RULES

MM = (1.0, 1.0, 1.0)
sides = st.integers(1, 8)
names = st.sampled_from(sorted(RULES))
VALUES = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "NETC": (1,), "SNFH": (2,), "RC": (4,)}


@st.composite
def label_maps(draw, count=2):
    """Label maps on one grid; with few voxels set, so that there are several lesions."""
    shape = draw(st.tuples(sides, sides, sides))
    maps = arrays.arrays(np.uint8, shape, elements=st.integers(0, 4), fill=st.just(0))
    return [draw(maps) for _ in range(count)]


def masks_of(label_map, rule):
    """Tissues that the classic regions lack are those of label 2; what they are does not matter."""
    return {t: np.isin(label_map, VALUES.get(t, (2,))) for t in rule.tissues}


def score(prediction, reference, rule, spacing=MM):
    return score_lesions(masks_of(prediction, rule), masks_of(reference, rule), spacing, rule)


@settings(deadline=None, max_examples=25)
@given(label_maps(), names)
def test_scores_are_bounded_and_lesions_add_up(maps, name):
    rule = RULES[name]
    for found in score(*maps, rule):
        for value in (found.dice, found.lesion_dice, *found.nsd, *found.lesion_nsd):
            assert 0 <= value <= 1
        penalty = rule.penalty_in(maps[0].shape)
        assert 0 <= found.lesion_hd95_mm <= max(penalty, math.hypot(*maps[0].shape))
        counted = [lesion for lesion in found.lesions if lesion.counts]
        assert found.num_matched + found.num_missed == len(counted)
        assert sum(lesion.volume_mm3 for lesion in found.lesions) == found.reference_mm3


@settings(deadline=None, max_examples=25)
@given(label_maps(count=1), names)
def test_a_reference_against_itself_is_perfect(maps, name):
    rule = RULES[name]
    for found in score(maps[0], maps[0], rule):
        if rule.prediction_filter != "none" and found.prediction_mm3 != found.reference_mm3:
            continue  # what the filter drops is missing
        assert found.dice == 1
        assert (found.num_missed, found.num_false) == (0, 0)
        if not rule.partners:  # the filter may drop a partner, and lesions then stay apart
            assert (found.lesion_dice, found.lesion_hd95_mm) == (1, 0)


@settings(deadline=None, max_examples=40)
@given(label_maps(), names, st.integers(1, 4))
def test_empty_room_around_changes_nothing(maps, name, room):
    rule = RULES[name]
    if rule.penalty_mm is None:
        return  # the penalty is the diagonal, which grows with the volume
    wide = [np.pad(label_map, room) for label_map in maps]
    for found, same in zip(score(*maps, rule), score(*wide, rule), strict=True):
        assert found.lesions == same.lesions
        assert found.lesion_hd95_mm == same.lesion_hd95_mm
        assert found.num_false == same.num_false
