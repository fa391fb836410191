"""Pictures of a comparison hold what the tables say."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bratsml.figures.comparison import BETTER, SAME, WORSE, difference_figure, slopes_figure


def test_one_marker_per_region_with_its_interval():
    table = pd.DataFrame(
        {
            "metric": ["dice", "dice"],
            "region": ["ET", "WT"],
            "difference": [0.1, -0.1],
            "low95": [0.05, -0.3],
            "high95": [0.2, 0.1],
            "verdict": ["second is better", "tie"],
        }
    )
    (trace,) = difference_figure(table, "a", "b").data
    assert list(trace.y) == ["WT", "ET"]  # drawn from below
    np.testing.assert_allclose(trace.error_x.array, [0.2, 0.1])
    np.testing.assert_allclose(trace.error_x.arrayminus, [0.2, 0.05])
    assert list(trace.marker.color) == [SAME, BETTER]


def test_one_slope_per_scored_case_coloured_by_its_change():
    first = pd.DataFrame({"case": list("abcd"), "region": "WT", "dice": [0.5, 0.5, 0.5, np.nan]})
    second = first.assign(dice=[0.6, 0.4, 0.5, 0.5])
    traces = slopes_figure(first, second, ("x", "y")).data
    assert [t.line.color for t in traces] == [BETTER, WORSE, SAME]
    assert list(traces[0].y) == [0.5, 0.6]
