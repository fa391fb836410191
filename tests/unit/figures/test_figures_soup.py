"""Bars of a soup: every network once, in its kind's colour."""

from __future__ import annotations

import pandas as pd

from bratsml.figures.soup import COLOURS, soup_figure

NAN = float("nan")


def test_every_network_has_its_bar_in_order() -> None:
    bars = pd.DataFrame(
        [
            {"name": "epoch 3", "kind": "ingredient", "dice": 0.81, "share": 0.25},
            {"name": "epoch 5", "kind": "ingredient", "dice": 0.83, "share": 0.75},
            {"name": "single", "kind": "best single", "dice": 0.82, "share": NAN},
            {"name": "soup", "kind": "soup", "dice": 0.85, "share": NAN},
            {"name": "published", "kind": "chosen on these cases", "dice": NAN, "share": NAN},
        ]
    )
    figure = soup_figure(bars, "x")
    drawn = {trace.name: (list(trace.y), list(trace.x)) for trace in figure.data}
    assert list(drawn) == list(COLOURS)
    assert drawn["ingredient"] == (["epoch 3", "epoch 5"], [0.81, 0.83])
    assert drawn["soup"] == (["soup"], [0.85])
    assert "0.750" in figure.data[0].customdata[1]
    assert figure.layout.yaxis.categoryarray[-1] == "epoch 3"  # plotly draws the last on top
    low, high = figure.layout.xaxis.range
    assert 0.7 < low < 0.81
    assert high > 0.85


def test_nothing_scored_draws_an_empty_figure() -> None:
    bars = pd.DataFrame([{"name": "a", "kind": "ingredient", "dice": NAN, "share": 1.0}])
    assert soup_figure(bars, "x").layout.xaxis.range == (0, 1.25)
