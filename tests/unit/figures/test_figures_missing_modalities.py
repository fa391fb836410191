"""The heat map holds what the table says."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bratsml.figures.missing_modalities import missing_modalities_figure


def test_both_panels_hold_the_table_in_its_order() -> None:
    rows = [
        ("t1n+t1c", "ET", 0.9, 0.0),
        ("t1n+t1c", "WT", 0.8, 0.0),
        ("t1c", "ET", 0.6, -0.3),
        ("t1c", "WT", np.nan, np.nan),
    ]
    table = pd.DataFrame(rows, columns=["subset", "region", "mean", "difference"])
    table = table.assign(
        metric="dice", low95=0.1, high95=1.0, difference_low95=-0.5, difference_high95=0.25
    )
    distances = table.assign(metric="hd95_mm", mean=40.0)
    figure = missing_modalities_figure(pd.concat([table, distances]), "x")
    mean, difference = figure.data
    assert list(mean.y) == ["t1n+t1c", "t1c"]
    assert list(mean.x) == ["ET", "WT"]
    np.testing.assert_array_equal(mean.z, [[0.9, 0.8], [0.6, np.nan]])
    np.testing.assert_array_equal(difference.z, [[0, 0], [-0.3, np.nan]])
    assert mean.customdata[0][0] == "0.100 to 1.000"
    assert difference.customdata[1][0] == "-0.500 to +0.250"
    assert figure.layout.yaxis.autorange == "reversed"  # the first row is on top
