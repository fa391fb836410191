"""Summaries by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bratsml.evaluation.summary import lost_by_kind, summary_table, worst_cases

TABLE = pd.DataFrame(
    {
        "case": ["a", "a", "b", "b", "c", "c"],
        "region": ["ET", "WT"] * 3,
        "dice": [np.nan, 0.9, 0.4, 0.8, 0.2, 0.4],
        "reference_ml": 1.0,
        "missing": False,
        "lost_missed": [0.0, 0.1, 0.0, 0.1, 0.3, 0.1],
        "lost_made_up": 0.0,
        "lost_boundary": [0.0, 0.0, 0.6, 0.1, 0.5, 0.5],
    }
)


def test_every_mean_says_over_how_many():
    summary = summary_table(TABLE).set_index(["metric", "region"])
    row = summary.loc[("dice", "ET")]
    assert (row["cases"], row["left_out"]) == (2, 1)
    assert row["mean"] == pytest.approx(0.3)
    row = summary.loc[("dice", "WT")]
    assert row["median"] == 0.8
    assert row["spread"] == pytest.approx(np.std([0.9, 0.8, 0.4], ddof=1))
    assert row["low95"] <= row["mean"] <= row["high95"]
    assert "missing" not in summary.index.get_level_values("metric")


def test_the_worst_case_comes_first():
    worst = worst_cases(TABLE, 2)
    assert worst["case"].tolist() == ["c", "b"]
    assert worst["dice"].tolist() == pytest.approx([0.3, 0.6])
    assert worst["WT"].tolist() == [0.4, 0.8]


def test_losses_add_up():
    lost = lost_by_kind(TABLE).set_index("region")
    assert lost.loc["WT", "lost_missed"] == pytest.approx(0.1)
    assert lost.loc["WT", "lost"] == pytest.approx(0.1 + 0.2)
