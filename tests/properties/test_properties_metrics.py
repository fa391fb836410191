import math

import hypothesis.extra.numpy as arrays
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bratsml.evaluation.evaluate import EvaluationConfig, case_table, score_case, summarize
from bratsml.metrics.empty import BRATS, POLICIES
from bratsml.metrics.overlap import dice
from bratsml.metrics.surface import hausdorff95_mm

sides = st.integers(1, 6)
sizes = st.floats(0.3, 4.0)


@st.composite
def pairs(draw):
    """Two masks on one grid, empty and full ones among them, with voxel sizes in mm."""
    shape = draw(st.tuples(sides, sides, sides))
    masks = arrays.arrays(bool, shape) | st.sampled_from(
        [np.zeros(shape, bool), np.ones(shape, bool)]
    )
    return draw(masks), draw(masks), draw(st.tuples(sizes, sizes, sizes))


@settings(deadline=None)
@given(pairs())
def test_scores_are_bounded_and_symmetric(pair):
    one, other, spacing = pair
    diagonal = math.hypot(*(n * mm for n, mm in zip(one.shape, spacing, strict=True)))
    overlap, distance = dice(one, other), hausdorff95_mm(one, other, spacing)
    assert 0 <= overlap <= 1
    assert 0 <= distance <= diagonal
    assert overlap == dice(other, one)
    assert distance == hausdorff95_mm(other, one, spacing)


@settings(deadline=None)
@given(pairs())
def test_a_mask_against_itself_is_perfect(pair):
    mask, _, spacing = pair
    assert dice(mask, mask) == 1
    assert hausdorff95_mm(mask, mask, spacing) == 0


@settings(deadline=None)
@given(pairs(), st.integers(0, 3), st.integers(0, 2))
def test_scores_do_not_depend_on_where_and_how_the_masks_lie(pair, room, turn):
    one, other, spacing = pair
    if not (one.any() and other.any()):
        return  # the penalty is the diagonal, which grows with the volume
    # a wider volume has borders elsewhere, but a voxel at a border is surface all the same
    wide = [np.pad(mask, room) for mask in (one, other)]
    axes = np.roll(range(3), turn)
    turned = [np.flip(mask.transpose(axes), turn) for mask in wide]
    sizes_turned = tuple(spacing[axis] for axis in axes)
    expected = hausdorff95_mm(one, other, spacing)
    assert math.isclose(hausdorff95_mm(*turned, sizes_turned), expected, abs_tol=1e-9)
    assert dice(*turned) == dice(one, other)


@settings(deadline=None)
@given(pairs(), st.floats(0.1, 10))
def test_distances_grow_with_the_voxels(pair, factor):
    one, other, spacing = pair
    larger = tuple(mm * factor for mm in spacing)
    expected = factor * hausdorff95_mm(one, other, spacing)
    assert math.isclose(hausdorff95_mm(one, other, larger), expected, rel_tol=1e-9, abs_tol=1e-9)


@settings(deadline=None)
@given(pairs())
def test_policies_differ_on_empty_masks_only(pair):
    one, other, spacing = pair
    for policy in POLICIES.values():
        same = dice(one, other, policy) == dice(one, other, BRATS)
        same &= hausdorff95_mm(one, other, spacing, policy) == hausdorff95_mm(one, other, spacing)
        assert same or not (one.any() and other.any())


@settings(deadline=None)
@given(st.lists(pairs(), min_size=1, max_size=4), st.sampled_from(sorted(POLICIES)))
def test_nothing_is_left_out_of_a_mean_in_silence(cases, name):
    config = EvaluationConfig(empty=name)
    rows = []
    for number, (prediction, reference, spacing) in enumerate(cases):
        rows += score_case(
            f"case{number}", prediction[None], reference[None], ["WT"], spacing, config
        )
    metrics = summarize(case_table(rows), "val")
    scores = {"dice": [r["dice"] for r in rows], "hd95": [r["hd95_mm"] for r in rows]}
    for metric, values in scores.items():
        scored = [value for value in values if not math.isnan(value)]
        left_out = metrics.get(f"val/num_left_out/{metric}/WT", 0)
        assert metrics["val/num_cases"] - left_out == len(scored)
        if scored:
            assert math.isclose(metrics[f"val/{metric}/WT"], sum(scored) / len(scored))
    assert all(math.isfinite(value) for value in metrics.values())
