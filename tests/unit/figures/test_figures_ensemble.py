from __future__ import annotations

import pandas as pd

from bratsml.ensembling.pareto import pareto_table
from bratsml.figures.ensemble import pareto_figure, weights_figure


def test_the_front_is_joined_and_the_others_stand_alone() -> None:
    table = pareto_table([(0,), (1,), (0, 1)], ["a", "b"], [0.7, 0.6, 0.8], [2.0, 5.0], [3, 5])
    figure = pareto_figure(table, "x")
    by_axis = {(t.xaxis, t.name): t for t in figure.data}
    assert list(by_axis["x", "front"].x) == [1, 2]
    assert list(by_axis["x", "front"].y) == [0.7, 0.8]
    assert by_axis["x", "front"].mode == "lines+markers"
    assert list(by_axis["x2", "front"].x) == [2.0, 7.0]
    assert list(by_axis["x2", "others"].text) == ["b"]
    assert by_axis["x2", "others"].mode == "markers"


def test_bars_are_the_weights_of_new_cases_and_points_the_cross_fitted_ones() -> None:
    rows = [
        {"group": group, "model": model, "region": "WT", "weight": weight}
        for group, first in (("all", 0.6), ("without group 0", 0.5), ("without group 1", 0.7))
        for model, weight in (("a", first), ("b", 1 - first))
    ]
    figure = weights_figure(pd.DataFrame(rows))
    bars = {t.name: list(t.y) for t in figure.data if t.type == "bar"}
    points = {t.offsetgroup: list(t.y) for t in figure.data if t.type == "box"}
    assert bars == {"a": [0.6], "b": [0.4]}
    assert points["a"] == [0.5, 0.7]
