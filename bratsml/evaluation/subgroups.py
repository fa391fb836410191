"""For whom a result changed: case by case, and by cohort, lesion size and enhancing tumour."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from bratsml.evaluation.intervals import bootstrap_mean

SIZES = ("small", "medium", "large")


def case_changes(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice over regions of every case in both results, the most worsened first.

    Regions without a score in one of the two are left out of both means.

    Args:
        first, second: Case x region tables of the same cases.

    Returns:
        Columns ``case``, ``first``, ``second``, ``change`` (second minus first).
    """
    both = first.merge(second, on=["case", "region"], suffixes=("_first", "_second"))
    both = both.dropna(subset=["dice_first", "dice_second"])
    means = both.groupby("case", sort=False)[["dice_first", "dice_second"]].mean()
    means.columns = pd.Index(["first", "second"])
    means["change"] = means["second"] - means["first"]
    return means.sort_values("change", kind="stable").reset_index()


def subgroup_changes(
    table: pd.DataFrame, changes: pd.DataFrame, cohorts: Mapping[str, str], seed: int = 0
) -> pd.DataFrame:
    """Mean change by cohort, by size of the whole tumour, and by presence of enhancing tumour.

    Args:
        table: Case x region table with ``reference_ml`` of WT and ET; without, these two
            groupings are missing. Sizes are thirds of the cases at hand.
        changes: From :func:`case_changes`.
        cohorts: Case to cohort.

    Returns:
        Columns ``by``, ``group``, ``num_cases``, ``change``, ``low95``, ``high95`` (bootstrap over
        cases; not corrected for the number of groups, so they suggest and do not prove).
    """
    groupings = {"cohort": {case: cohorts[case] for case in changes["case"]}}
    volumes = _reference_ml(table, "WT").reindex(changes["case"]).dropna()
    if len(volumes) >= len(SIZES):
        thirds = pd.qcut(volumes.rank(method="first"), len(SIZES), labels=list(SIZES))
        groupings["whole tumour"] = {str(case): str(size) for case, size in thirds.items()}
    enhancing = _reference_ml(table, "ET").reindex(changes["case"]).dropna()
    groupings["enhancing tumour"] = {
        str(case): "present" if volume > 0 else "absent" for case, volume in enhancing.items()
    }
    rows = []
    for by, group_of in groupings.items():
        grouped = changes.assign(group=changes["case"].map(group_of)).dropna(subset=["group"])
        for group, part in grouped.groupby("group", sort=True):
            values = part["change"].to_numpy()
            low, high = bootstrap_mean(values, seed)
            rows.append((by, str(group), len(values), float(values.mean()), low, high))
    return pd.DataFrame(rows, columns=["by", "group", "num_cases", "change", "low95", "high95"])


def _reference_ml(table: pd.DataFrame, region: str) -> pd.Series[float]:
    if "reference_ml" not in table:
        return pd.Series(dtype=float)
    return table[table["region"] == region].set_index("case")["reference_ml"]
