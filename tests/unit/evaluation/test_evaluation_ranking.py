"""Ranks and their permutation test, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bratsml.errors import DataError
from bratsml.evaluation.ranking import case_ranks, permutation_p, rank_results


def table(dice: list[float], hd95: list[float]) -> pd.DataFrame:
    cases = [f"case{i}" for i in range(len(dice))]
    return pd.DataFrame({"case": cases, "region": "WT", "dice": dice, "hd95_mm": hd95})


RESULTS = {
    "a": table([0.9, 0.8], [2.0, 3.0]),
    "b": table([0.8, 0.8], [1.0, 4.0]),
    "c": table([0.7, np.nan], [9.0, np.nan]),
}


def test_ranks_share_and_missing_is_last():
    # case0: Dice ranks 1 2 3, HD95 ranks 2 1 3; case1: Dice 1.5 1.5 3, HD95 1 2 3
    ranks = case_ranks(RESULTS)
    assert ranks.loc["case0"].tolist() == [1.5, 1.5, 3]
    assert ranks.loc["case1"].tolist() == [1.25, 1.75, 3]
    ordered = rank_results(RESULTS)
    assert ordered["result"].tolist() == ["a", "b", "c"]
    assert ordered["mean_rank"].tolist() == [1.375, 1.625, 3]
    assert ordered["place"].tolist() == [1, 2, 3]


def test_every_permutation_of_few_cases():
    found = permutation_p(RESULTS).set_index(["first", "second"])
    # b - a: 0 and .5: of four exchanges all are as far from 0
    assert found.loc[("a", "b"), "p"] == 1
    # c - a: 1.5 and 1.75: two of four (both signs alike)
    assert found.loc[("a", "c"), "p"] == 0.5


def test_many_cases_are_sampled_and_agree_with_the_normal_approximation():
    rng = np.random.default_rng(3)
    dice = rng.random(100)
    better = np.where(np.arange(100) < 60, dice + 0.01, dice - 0.01)
    results = {
        "a": table(list(dice), [1.0] * 100),
        "b": table(list(better), [1.0] * 100),
    }
    p = permutation_p(results)["p"].iloc[0]
    # 60 of 100 signs: z = 2, two-sided .0455; .0569 with the counts as steps
    assert p == pytest.approx(0.0569, abs=0.004)
    assert p == permutation_p(results)["p"].iloc[0]


def test_unequal_results_are_refused():
    with pytest.raises(DataError, match="other cases"):
        case_ranks({"a": RESULTS["a"], "b": RESULTS["b"].iloc[:1]})
    with pytest.raises(DataError, match="two results"):
        case_ranks({"a": RESULTS["a"]})
