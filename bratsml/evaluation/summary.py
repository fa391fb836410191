"""A table of case x region x metric in a few numbers, each saying over how many cases."""

from __future__ import annotations

import pandas as pd

from bratsml.evaluation.intervals import bootstrap_mean

SUMMARY_COLUMNS = (
    "metric", "region", "cases", "left_out", "mean", "low95", "high95", "median", "spread",
)  # fmt: skip
NOT_METRICS = ("case", "region", "empty", "missing", "reference_ml", "prediction_ml")


def metric_columns(table: pd.DataFrame) -> list[str]:
    """Columns of a case x region table that hold scores."""
    return [str(name) for name in table.columns if name not in NOT_METRICS]


def summary_table(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean with bootstrap interval over cases, median and standard deviation (n - 1).

    Args:
        table: Case x region rows; NaN where a policy leaves a case out.

    Returns:
        Columns :data:`SUMMARY_COLUMNS`, one row per metric and region; ``left_out`` counts NaN.
    """
    rows = []
    for metric in metric_columns(table):
        for region, values in table.groupby("region", sort=False)[metric]:
            scored = values.dropna().astype(float)
            low, high = bootstrap_mean(scored.to_numpy(), seed)
            rows.append(
                (
                    metric, str(region), len(scored), len(values) - len(scored), scored.mean(),
                    low, high, scored.median(), scored.std(ddof=1),
                )
            )  # fmt: skip
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def worst_cases(table: pd.DataFrame, count: int = 5) -> pd.DataFrame:
    """Cases of lowest mean Dice over regions, the worst first: ``case``, ``dice``, one per region.

    Ties keep the order of the table; cases without any Dice are passed over.
    """
    by_case = table.pivot_table(
        index="case", columns="region", values="dice", sort=False, dropna=False
    )
    by_case.columns.name = None
    by_case.insert(0, "dice", by_case.mean(axis=1))
    found = by_case.dropna(subset=["dice"]).sort_values("dice", kind="stable").head(count)
    return found.reset_index()


def lost_by_kind(table: pd.DataFrame) -> pd.DataFrame:
    """Mean missing Dice per region and its parts: ``region``, ``lost``, and one per kind.

    Args:
        table: With ``lost_missed``, ``lost_made_up`` and ``lost_boundary``.
    """
    kinds = ["lost_missed", "lost_made_up", "lost_boundary"]
    means = table.groupby("region", sort=False)[kinds].mean()
    means.insert(0, "lost", means.sum(axis=1))
    return means.reset_index()
