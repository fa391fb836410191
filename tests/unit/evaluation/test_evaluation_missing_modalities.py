"""The subsets of modalities, and the table of what is lost without some of them."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from bratsml.data.cases import MODALITIES
from bratsml.errors import DataError
from bratsml.evaluation.missing_modalities import (
    ALL,
    SUBSETS,
    keep_only,
    name_of,
    subset_table,
    subsets_of,
    worst_single_loss,
)


def scores(subset: str, dice: dict[str, float], region: str = "ET") -> pd.DataFrame:
    cases = pd.DataFrame({"case": list(dice), "region": region, "dice": list(dice.values())})
    return cases.assign(subset=subset)


def test_there_are_15_subsets_with_all_four_first() -> None:
    assert len(set(SUBSETS)) == len(SUBSETS) == 15
    assert SUBSETS[0] == MODALITIES
    assert [len(subset) for subset in SUBSETS] == [4] + [3] * 4 + [2] * 6 + [1] * 4
    assert ALL == "t1n+t1c+t2w+t2f"
    assert {name_of(pair) for pair in combinations(MODALITIES, 2)} <= set(map(name_of, SUBSETS))


@pytest.mark.parametrize("subset", SUBSETS, ids=name_of)
def test_a_missing_modality_is_zero_and_the_others_stay(subset: tuple[str, ...]) -> None:
    image = np.random.default_rng(0).standard_normal((4, 3, 2, 2)).astype(np.float32)
    before = image.copy()
    kept = keep_only(image, subset)
    for channel, modality in enumerate(MODALITIES):
        expected = before[channel] if modality in subset else np.zeros((3, 2, 2))
        np.testing.assert_array_equal(kept[channel], expected)
    np.testing.assert_array_equal(image, before)
    assert not np.shares_memory(kept, image)


def test_mean_and_difference_by_subset() -> None:
    table = subset_table(
        pd.concat(
            [
                scores("t2f", {"a": 0.5, "b": 0.1}),
                scores(ALL, {"a": 0.9, "b": 0.7}),
            ]
        )
    )
    assert table["subset"].tolist() == [ALL, "t2f"]  # in the order of the subsets
    assert table["num_modalities"].tolist() == [4, 1]
    np.testing.assert_allclose(table["mean"], [0.8, 0.3])
    np.testing.assert_allclose(table["difference"], [0, -0.5])
    np.testing.assert_allclose(table["difference_low95"], [0, -0.6])
    np.testing.assert_allclose(table["difference_high95"], [0, -0.4])
    np.testing.assert_allclose(table["low95"], [0.7, 0.1])
    np.testing.assert_allclose(table["high95"], [0.9, 0.5])


def test_the_unit_is_the_patient_and_a_case_without_score_is_counted() -> None:
    table = subset_table(
        pd.concat(
            [
                scores(ALL, {"a0": 1.0, "a1": 0.8, "b": 0.6, "c": 0.9}),
                scores("t1c", {"a0": 0.4, "a1": 0.2, "b": 0.5, "c": np.nan}),
            ]
        ),
        {"a0": "a", "a1": "a", "b": "b", "c": "c"},
    )
    row = table[table["subset"] == "t1c"].iloc[0]
    assert (row["num_patients"], row["num_left_out"]) == (2, 1)
    assert row["mean"] == pytest.approx((0.3 + 0.5) / 2)
    assert row["difference"] == pytest.approx((-0.6 - 0.1) / 2)


def test_without_any_score_the_numbers_are_nan() -> None:
    nothing = {"a": np.nan}
    table = subset_table(pd.concat([scores(ALL, nothing), scores("t1c", nothing)]))
    assert table["num_left_out"].tolist() == [1, 1]
    assert table[["mean", "low95", "difference", "difference_high95"]].isna().all(axis=None)
    assert worst_single_loss(table) == []


def test_other_cases_than_with_all_four_are_refused() -> None:
    with pytest.raises(DataError):
        subset_table(pd.concat([scores(ALL, {"a": 1.0}), scores("t1c", {"b": 1.0})]))


def test_the_modality_a_region_misses_most() -> None:
    table = subset_table(
        pd.concat(
            [
                scores(ALL, {"a": 0.9}),
                scores("t1n+t2w+t2f", {"a": 0.2}),  # without t1c
                scores("t1c+t2w+t2f", {"a": 0.8}),  # without t1n
                scores("t1n", {"a": 0.0}),  # lacks three: not one modality's doing
                scores(ALL, {"a": 0.9}, "WT"),
                scores("t1n+t2w+t2f", {"a": 0.85}, "WT"),
                scores("t1c+t2w+t2f", {"a": 0.6}, "WT"),
                scores("t1n", {"a": 0.0}, "WT"),
            ]
        )
    )
    found = {row["region"]: row for row in worst_single_loss(table)}
    assert {region: row["missing"] for region, row in found.items()} == {"ET": "t1c", "WT": "t1n"}
    assert found["ET"]["difference"] == pytest.approx(-0.7)


def test_of_a_network_with_two_modalities_both_are_all() -> None:
    assert subsets_of(("t1c", "t2f")) == (("t1c", "t2f"), ("t1c",), ("t2f",))
    table = subset_table(
        pd.concat(
            [
                scores("t1c", {"a": 0.4}),
                scores("t2f", {"a": 0.7}),
                scores("t1c+t2f", {"a": 0.9}),
            ]
        )
    )
    assert table["subset"].tolist() == ["t1c+t2f", "t1c", "t2f"]
    np.testing.assert_allclose(table["difference"], [0, -0.5, -0.2])
    (worst,) = worst_single_loss(table)
    assert worst["missing"] == "t2f"
