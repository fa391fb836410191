"""Paired comparison: by hand, against textbook values, and what it refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bratsml.errors import DataError
from bratsml.evaluation.compare import (
    compare,
    holm,
    mean_over_seeds,
    noise_floor,
    paired_scores,
    signed_rank_p,
    smallest_detectable,
)


def table(dice: list[float], region: str = "WT", hd95: list[float] | None = None) -> pd.DataFrame:
    columns: dict[str, object] = {
        "case": [f"case{i}" for i in range(len(dice))],
        "region": region,
        "dice": dice,
    }
    return pd.DataFrame(columns | ({"hd95_mm": hd95} if hd95 else {}))


def test_row_by_hand():
    first, second = [0.5, 0.6, 0.7, 0.8, 0.5, 0.6], [0.6, 0.6, 0.9, 0.7, 0.8, 1.0]
    row = compare(table(first), table(second)).iloc[0]
    assert (row["wins"], row["ties"], row["losses"]) == (4, 1, 1)
    assert row["difference"] == pytest.approx(0.9 / 6)
    # differences .1 0 .2 -.1 .3 .4: mean .15, squared deviations sum .175
    assert row["effect"] == pytest.approx(0.15 / np.sqrt(0.175 / 5))
    assert row["low95"] < 0.15 < row["high95"]
    assert row["verdict"] == "tie"


def test_a_clear_difference_is_called_by_its_name_in_both_directions():
    worse, better = [0.5 + i / 100 for i in range(12)], [0.6 + i / 90 for i in range(12)]
    assert compare(table(worse), table(better)).iloc[0]["verdict"] == "second is better"
    assert compare(table(better), table(worse)).iloc[0]["verdict"] == "first is better"


def test_for_distances_lower_is_better():
    near, far = [1.0 + i / 10 for i in range(12)], [4.0 + i / 5 for i in range(12)]
    same = [0.5] * 12
    found = compare(table(same, hd95=far), table(same, hd95=near)).set_index("metric")
    assert found.loc["hd95_mm", "verdict"] == "second is better"
    assert found.loc["hd95_mm", "wins"] == 12
    assert found.loc["dice", "verdict"] == "tie"
    assert found.loc["dice", "p"] == 1


def test_five_patients_are_too_few_whatever_they_say():
    row = compare(table([0.1] * 5), table([0.9, 0.91, 0.92, 0.93, 0.94])).iloc[0]
    assert row["verdict"] == "too few to tell"
    assert row["p"] == pytest.approx(2 / 2**5)


def test_visits_of_one_patient_count_once():
    first, second = table([0.5, 0.7, 0.6]), table([0.7, 0.9, 0.6])
    patients = {"case0": "a", "case1": "a", "case2": "b"}
    (pair,) = paired_scores(first, second, patients)
    np.testing.assert_allclose(pair.differences, [0.2, 0.0])


def test_missing_scores_are_counted():
    row = compare(table([0.5, np.nan, 0.6]), table([0.5, 0.4, np.nan])).iloc[0]
    assert (row["num_patients"], row["num_left_out"]) == (1, 2)
    assert np.isnan(row["p"])
    assert row["verdict"] == "too few to tell"


def test_other_cases_are_refused():
    with pytest.raises(DataError, match="case2: 1 case-region pairs"):
        compare(table([0.5, 0.6]), table([0.5, 0.6, 0.7]))
    doubled = pd.concat([table([0.5]), table([0.5])])
    with pytest.raises(DataError, match="case0: is scored twice"):
        compare(doubled, doubled)


def test_holm_by_hand():
    p = np.array([0.01, 0.04, np.nan, 0.03])
    # sorted .01 .03 .04 times 3, 2, 1 and never falling
    np.testing.assert_allclose(holm(p), [0.03, 0.06, np.nan, 0.06])
    np.testing.assert_allclose(holm(p, 2), [0.06, 0.12, np.nan, 0.12])
    assert holm(np.array([0.9, 0.8])).max() == 1


def test_signed_rank_of_a_textbook():
    # Differences 1..8 with -1 and -2: rank sum 3 of 36; 5 of the 256 sign patterns are as low
    # (0, 1, 2, 3 = 3, 3 = 1 + 2), doubled for both sides.
    differences = np.array([-1.0, -2, 3, 4, 5, 6, 7, 8])
    assert signed_rank_p(differences) == pytest.approx(2 * 5 / 256)
    assert signed_rank_p(np.zeros(4)) == 1


def test_smallest_detectable_by_table():
    # 10 differences of spread 1: t(.975, 9) = 2.2622, t(.8, 9) = 0.8834
    differences = np.array([1.0, -1.0] * 5)
    differences /= differences.std(ddof=1)
    assert smallest_detectable(differences) == pytest.approx(3.1456 / np.sqrt(10), abs=1e-4)
    assert np.isnan(smallest_detectable(np.array([1.0])))


def test_seeds_give_the_noise_floor_and_are_averaged():
    tables = [table([0.5, 0.7]), table([0.6, 0.8]), table([0.7, np.nan])]
    row = noise_floor(tables).iloc[0]
    assert row["num_seeds"] == 3
    assert row["largest_difference"] == pytest.approx(0.1)  # means .6 .7 .7
    assert row["spread"] == pytest.approx(np.std([0.6, 0.7, 0.7], ddof=1))
    np.testing.assert_allclose(mean_over_seeds(tables)["dice"], [0.6, np.nan])
    with pytest.raises(DataError, match="two seeds or more"):
        noise_floor(tables[:1])
