"""The table of fold x region Dice, with mean and spread."""

from __future__ import annotations

import pandas as pd
from rich.table import Table

from bratsml.workflows.console import console


def fold_table(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per fold, then ``mean`` and ``spread`` (standard deviation over folds, n - 1).

    Args:
        scores: Columns ``fold``, ``case``, ``region``, ``dice``; one row per case and region.

    Returns:
        Columns ``fold`` (text), ``cases``, one per region, ``mean`` (over regions).
    """
    regions = list(dict.fromkeys(scores["region"]))
    by_fold = scores.pivot_table(index="fold", columns="region", values="dice", aggfunc="mean")
    by_fold = by_fold[regions]
    by_fold["mean"] = by_fold.mean(axis=1)
    table = by_fold.copy()
    table.index = pd.Index([str(fold) for fold in by_fold.index], name="fold")
    table.loc["mean"] = by_fold.mean()
    table.loc["spread"] = by_fold.std(ddof=1)
    counts = scores.groupby("fold")["case"].nunique()
    cases = [str(n) for n in counts] + [str(counts.sum()), ""]
    table.insert(0, "cases", cases)
    table.columns.name = None
    return table.reset_index()


def print_fold_table(table: pd.DataFrame, before: float | None, what: str = "untrained") -> None:
    """Print the table; below it the mean Dice before training, where it was measured.

    Args:
        what: That row's name.
    """
    shown = Table(title="Dice on each fold's validation cases")
    for name in table.columns:
        shown.add_column(str(name), justify="right")
    for row in table.itertuples(index=False):
        cells = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in row]
        if row[0] == "mean":
            shown.add_section()
        shown.add_row(*cells)
    if before is not None:
        shown.add_section()
        blanks = [""] * (len(table.columns) - 2)
        shown.add_row(what, *blanks, f"{before:.3f}")
    console.print(shown)
