from __future__ import annotations

import pandas as pd
import pytest

from bratsml.workflows.fold_table import fold_table


def test_mean_and_spread_over_folds_by_hand() -> None:
    scores = pd.DataFrame(
        [
            (0, "a", "ET", 0.6),
            (0, "a", "WT", 0.8),
            (0, "b", "ET", 0.8),
            (0, "b", "WT", 1.0),
            (1, "c", "ET", 0.5),
            (1, "c", "WT", 0.7),
        ],
        columns=["fold", "case", "region", "dice"],
    )
    table = fold_table(scores).set_index("fold")
    assert list(table.columns) == ["cases", "ET", "WT", "mean"]
    assert table.loc["0", ["ET", "WT", "mean"]].tolist() == pytest.approx([0.7, 0.9, 0.8])
    assert table.loc["mean", ["ET", "WT", "mean"]].tolist() == pytest.approx([0.6, 0.8, 0.7])
    # two values 0.2 apart: standard deviation 0.2 / sqrt(2)
    assert table.loc["spread", "ET"] == pytest.approx(0.2 / 2**0.5)
    assert table["cases"].tolist() == ["2", "1", "3", ""]
