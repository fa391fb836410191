"""For whom a result changed, by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bratsml.evaluation.subgroups import case_changes, subgroup_changes


def table(changes: list[float]) -> pd.DataFrame:
    rows = []
    for number, change in enumerate(changes):
        for region, volume in (("ET", float(number % 2)), ("WT", 10.0 * number + 5)):
            rows.append((f"case{number}", region, 0.5 + change, volume))
    return pd.DataFrame(rows, columns=["case", "region", "dice", "reference_ml"])


def test_the_most_worsened_case_comes_first():
    changes = case_changes(table([0, 0, 0]), table([0.1, -0.2, 0.0]))
    assert changes["case"].tolist() == ["case1", "case2", "case0"]
    np.testing.assert_allclose(changes["change"], [-0.2, 0, 0.1])


def test_a_region_without_a_score_is_left_out_of_both():
    first, second = table([0.0]), table([0.1])
    first.loc[0, "dice"] = np.nan
    second.loc[0, "dice"] = 0.9
    assert case_changes(first, second)["change"].tolist() == pytest.approx([0.1])


def test_groups_by_hand():
    first, second = table([0] * 6), table([0.1, 0.3, 0.0, 0.2, -0.1, 0.1])
    cohorts = {f"case{i}": "GLI" if i < 4 else "SSA" for i in range(6)}
    found = subgroup_changes(first, case_changes(first, second), cohorts)
    means = found.set_index(["by", "group"])["change"]
    assert means[("cohort", "GLI")] == pytest.approx(0.15)
    assert means[("cohort", "SSA")] == pytest.approx(0.0)
    assert means[("whole tumour", "small")] == pytest.approx(0.2)
    assert means[("whole tumour", "large")] == pytest.approx(0.0)
    assert means[("enhancing tumour", "present")] == pytest.approx(0.2)
    assert means[("enhancing tumour", "absent")] == pytest.approx(0.0)
    assert (found["low95"] <= found["change"] + 1e-12).all()


def test_without_volumes_only_cohorts_are_told_apart():
    plain = table([0, 0]).drop(columns="reference_ml")
    found = subgroup_changes(plain, case_changes(plain, plain), {"case0": "a", "case1": "a"})
    assert found["by"].tolist() == ["cohort"]
