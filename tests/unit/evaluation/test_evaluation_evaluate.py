import math

import numpy as np
import pandas as pd
import pytest

from bratsml.config import build_config
from bratsml.errors import ConfigError, DataError
from bratsml.evaluation.evaluate import (
    COLUMNS,
    EvaluationConfig,
    case_table,
    dice_by_region,
    score_case,
    summarize,
    typical_cases,
)

REGIONS = ("ET", "TC", "WT")
SPACING = (1.0, 2.0, 2.0)
NAN = math.nan


def stack(*sizes):
    """Regions that fill the first voxels of a rod of ten."""
    masks = np.zeros((len(sizes), 10, 1, 1), bool)
    for mask, size in zip(masks, sizes, strict=True):
        mask[:size] = True
    return masks


def table_of(rows):
    return pd.DataFrame(rows, columns=["case", "region", "dice", "hd95_mm"])


def test_rows_by_hand():
    rows = score_case("A", stack(0, 2, 4), stack(0, 4, 4), REGIONS, SPACING, EvaluationConfig())
    assert [list(row) for row in rows] == [list(COLUMNS)] * 3
    et, tc, wt = rows
    assert (et["case"], et["region"], et["dice"], et["hd95_mm"]) == ("A", "ET", 1.0, 0.0)
    assert et["empty"] == "both"
    assert tc["dice"] == pytest.approx(2 * 2 / 6)
    # the reference's voxels lie 0, 0, 1 and 2 mm from the prediction
    assert tc["hd95_mm"] == pytest.approx(np.percentile([0, 0, 1, 2], 95))
    # a voxel is 4 cubic millimetres
    assert (tc["reference_ml"], tc["prediction_ml"]) == pytest.approx((0.016, 0.008))
    assert (wt["dice"], wt["hd95_mm"], wt["empty"]) == (1.0, 0.0, "")


def test_one_empty_mask_is_named_and_punished():
    config = EvaluationConfig(hd95_penalty_mm=374)
    missed = score_case("A", stack(0), stack(3), ["WT"], SPACING, config)[0]
    false = score_case("A", stack(3), stack(0), ["WT"], SPACING, config)[0]
    assert (missed["dice"], missed["hd95_mm"], missed["empty"]) == (0.0, 374.0, "prediction")
    assert (false["dice"], false["hd95_mm"], false["empty"]) == (0.0, 374.0, "reference")


@pytest.mark.parametrize(
    ("prediction", "reference", "words"),
    [
        (stack(1).astype(np.float32), stack(1), "boolean, received float32"),
        (np.full((1, 10, 1, 1), np.nan), stack(1), "10 NaN"),
        (stack(1), stack(1).astype(np.uint8), "reference must be boolean"),
        (stack(1)[..., :0], stack(1), "shapes differ"),
        (stack(1, 2), stack(1, 2), "for 1 regions"),
        (stack(1)[0], stack(1)[0], "for 1 regions"),
    ],
)
def test_what_is_no_stack_of_masks_is_refused_with_the_case(prediction, reference, words):
    with pytest.raises(DataError, match=words) as caught:
        score_case("BraTS-GLI-1", prediction, reference, ["WT"], SPACING, EvaluationConfig())
    assert caught.value.case == "BraTS-GLI-1"


@pytest.mark.parametrize("size", [0.0, -1.0, NAN])
def test_voxel_sizes_that_no_volume_has_are_refused_with_the_case(size):
    with pytest.raises(DataError, match="three sizes above 0 mm") as caught:
        score_case("A", stack(1), stack(0), ["WT"], (1.0, 1.0, size), EvaluationConfig())
    assert caught.value.case == "A"


@pytest.mark.parametrize(
    "settings", [{"empty": "skip"}, {"hd95_penalty_mm": 0}, {"hd95_penalty_mm": NAN}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        build_config(EvaluationConfig, settings)


def test_summary_by_hand():
    table = table_of(
        [("A", "ET", 0.5, 2), ("A", "WT", 1.0, 0), ("B", "ET", 0.7, 4), ("B", "WT", 0.8, 1)]
    )
    assert summarize(table) == pytest.approx(
        {
            "val/num_cases": 2,
            "val/dice/ET": 0.6,
            "val/dice/WT": 0.9,
            "val/dice/mean": 0.75,
            "val/hd95/ET": 3.0,
            "val/hd95/WT": 0.5,
            "val/hd95/mean": 1.75,
        }
    )


def test_cases_left_out_of_a_mean_are_counted_for_each_metric():
    table = table_of(
        [("A", "ET", NAN, NAN), ("B", "ET", 0.0, NAN), ("C", "ET", 0.6, 2.0), ("D", "ET", 0.9, 4.0)]
    )
    assert summarize(table, "test") == pytest.approx(
        {
            "test/num_cases": 4,
            "test/dice/ET": 0.5,
            "test/dice/mean": 0.5,
            "test/num_left_out/dice/ET": 1,
            "test/hd95/ET": 3.0,
            "test/hd95/mean": 3.0,
            "test/num_left_out/hd95/ET": 2,
        }
    )


def test_a_region_without_any_score_is_missing_and_counted():
    table = table_of([("A", "ET", NAN, NAN), ("A", "WT", 0.8, 1.0)])
    metrics = summarize(table)
    assert "val/dice/ET" not in metrics
    assert metrics["val/num_left_out/dice/ET"] == 1
    assert metrics["val/dice/mean"] == 0.8
    assert not any(math.isnan(value) for value in metrics.values())


def test_no_rows_are_an_empty_table_with_its_columns():
    table = case_table([])
    assert list(table.columns) == list(COLUMNS)
    assert summarize(table) == {"val/num_cases": 0}
    assert typical_cases(table) == {}


def test_further_columns_come_along():
    rows = score_case("A", stack(1), stack(1), ["WT"], SPACING, EvaluationConfig())
    table = case_table([{**row, "fold": 3} for row in rows])
    assert list(table.columns) == [*COLUMNS, "fold"]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"A": 0.4, "B": 0.9, "C": 0.2}, {"worst": "C", "median": "A", "best": "B"}),
        ({"A": 0.1, "B": 0.2, "C": 0.3, "D": 0.4}, {"worst": "A", "median": "B", "best": "D"}),
        ({"A": 0.4, "B": 0.2}, {"worst": "B", "best": "A"}),
        ({"A": 0.4}, {"worst": "A"}),
        ({"A": 0.4, "B": NAN, "C": 0.8}, {"worst": "A", "best": "C"}),
        ({"B": 0.5, "A": 0.5, "C": 0.5}, {"worst": "B", "median": "A", "best": "C"}),
    ],
)
def test_typical_cases(scores, expected):
    rows = [(case, "WT", score, 0.0) for case, score in scores.items()]
    assert typical_cases(table_of(rows)) == expected


def test_typical_cases_go_by_the_mean_over_regions():
    rows = [("A", "ET", 0.0, 0), ("A", "WT", 0.9, 0), ("B", "ET", 0.5, 0), ("B", "WT", 0.5, 0)]
    assert typical_cases(table_of(rows)) == {"worst": "A", "best": "B"}
    assert dice_by_region(table_of(rows), "A") == {"ET": 0.0, "WT": 0.9}
