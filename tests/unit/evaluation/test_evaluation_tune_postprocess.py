"""Choosing post-processing: the grid by hand, ties, and that a fold does not choose for itself."""

from __future__ import annotations

import numpy as np
import pytest

from bratsml.evaluation.tune_postprocess import (
    CaseScores,
    Setting,
    TuneConfig,
    apply,
    choose,
    cross_fit,
    score_settings,
    settings_of,
    steps_of,
)
from bratsml.inference.postprocess import Regions, Threshold, postprocess
from bratsml.labels import get_scheme
from bratsml.metrics.empty import BRATS

REGIONS = Regions.of(get_scheme("brats2021"), ("ET", "TC", "WT"))
CONFIG = TuneConfig(thresholds=(0.5, 0.3), min_component_voxels=(1, 3), drop_if_small_voxels=(1, 2))


def volumes(*rows: list[float]) -> np.ndarray:
    return np.array([[[row]] for row in rows], dtype=np.float32)


def test_scores_follow_the_order_of_settings():
    p = volumes([0.9, 0, 0, 0, 0, 0], [0] * 6, [0.9, 0, 0.4, 0.4, 0.9, 0.9])
    reference = volumes([0] * 6, [0] * 6, [0, 0, 1, 1, 1, 1]) > 0
    scores = score_settings("a", p, reference, REGIONS, CONFIG, BRATS).scores
    # WT above .5: one voxel, then a pair; without components below 3: nothing
    # WT above .3: one voxel, then four; without components below 3: the four, as it should be
    np.testing.assert_allclose(scores["WT"], [2 * 2 / 7, 0, 2 * 4 / 9, 1])
    assert len(settings_of("WT", REGIONS, CONFIG)) == 4
    # ET is a false voxel: Dice 0, unless it is dropped as a component or as too little in all
    by_setting = dict(zip(settings_of("ET", REGIONS, CONFIG), scores["ET"], strict=True))
    assert by_setting[Setting(0.5, 1, 1)] == 0
    assert by_setting[Setting(0.5, 1, 2)] == 1
    assert by_setting[Setting(0.5, 3, 1)] == 1


def test_iou_is_dice_by_its_formula():
    p, reference = volumes([0.9, 0.9], [0, 0], [0.9, 0.9]), volumes([1, 0], [0, 0], [1, 0]) > 0
    config = CONFIG.model_copy(update={"metric": "iou"})
    scores = score_settings("a", p, reference, REGIONS, config, BRATS).scores
    assert scores["WT"][0] == pytest.approx(1 / 2)


def test_lesion_wise_a_false_lesion_costs_half():
    p = np.zeros((3, 12, 5, 5), np.float32)
    p[2, :4], p[2, 11, 0, 0] = 0.9, 0.9
    reference = np.zeros((3, 12, 5, 5), bool)
    reference[2, :4] = True
    config = CONFIG.model_copy(update={"metric": "lesion_dice"})
    scores = score_settings("a", p, reference, REGIONS, config, BRATS).scores
    # one lesion found in full and one false: 1 / 2; without components below 3 voxels: 1
    np.testing.assert_allclose(scores["WT"], [0.5, 1, 0.5, 1])


def case(name: str, **wt: float) -> CaseScores:
    scores = [wt["untuned"], 0.0, wt["low"], 0.0]
    return CaseScores(name, {"ET": np.zeros(8), "TC": np.zeros(4), "WT": np.array(scores)})


def test_untuned_wins_a_tie_and_nan_does_not_count():
    chosen = choose([case("a", untuned=0.5, low=0.5)], REGIONS, CONFIG)
    assert chosen["WT"] == Setting(0.5, 1, 1)
    left_out = CaseScores(
        "b", {r: np.full(n, np.nan) for r, n in [("ET", 8), ("TC", 4), ("WT", 4)]}
    )
    chosen = choose([case("a", untuned=0.5, low=0.6), left_out], REGIONS, CONFIG)
    assert chosen["WT"] == Setting(0.3, 1, 1)


def test_a_fold_does_not_choose_for_itself():
    folds = [
        [case("a", untuned=0.9, low=0.1)],
        [case("b", untuned=0.4, low=0.5)],
        [case("c", untuned=0.4, low=0.5)],
    ]
    fitted = cross_fit(folds, REGIONS, CONFIG)
    # fold 0 says untuned, loudly; the others say low: it gets theirs, they get its
    assert [chosen["WT"].threshold for chosen in fitted] == [0.3, 0.5, 0.5]


def test_steps_give_the_masks_that_were_scored():
    rng = np.random.default_rng(0)
    p = rng.random((3, 6, 6, 6)).astype(np.float32) * np.array([0.5, 0.8, 1])[:, None, None, None]
    chosen = {
        "ET": Setting(0.4, 2, 5), "TC": Setting(0.6, 3, 1), "WT": Setting(0.7, 4, 1),
    }  # fmt: skip
    steps = steps_of(chosen, REGIONS)
    assert [step.kind for step in steps] == [
        "threshold", "min_component", "min_component", "min_component", "drop_if_small",
    ]  # fmt: skip
    np.testing.assert_array_equal(
        apply(p, REGIONS, chosen), postprocess(p > 0.5, p, REGIONS, steps)
    )


def test_untuned_is_no_step_at_all():
    untuned = dict.fromkeys(REGIONS.names, Setting(0.5, 1, 1))
    assert steps_of(untuned, REGIONS) == ()
    only_one = untuned | {"WT": Setting(0.4, 1, 1)}
    (step,) = steps_of(only_one, REGIONS)
    assert isinstance(step, Threshold)
    assert step.above == {"ET": 0.5, "TC": 0.5, "WT": 0.4}
