"""Pictures of pruning: what is left of the Dice, and which layers bear it."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import qualitative

ROW_HEIGHT, MARGIN_HEIGHT = 18, 160


def pruning_figure(table: pd.DataFrame, title: str) -> go.Figure:
    """Mean Dice per region over the share of weights taken, with compressed size on hovering.

    Args:
        table: Rows with ``share`` (0 to 1), ``region``, ``dice``, ``low95``, ``high95`` and
            ``megabytes``.
    """
    figure = go.Figure()
    for number, (region, part) in enumerate(table.groupby("region", sort=False)):
        ordered = part.sort_values("share")
        figure.add_scatter(
            x=100 * ordered["share"],
            y=ordered["dice"],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": ordered["high95"] - ordered["dice"],
                "arrayminus": ordered["dice"] - ordered["low95"],
                "thickness": 1,
            },
            customdata=ordered["megabytes"],
            hovertemplate="%{x:.0f} % taken: %{y:.3f}, %{customdata:.2f} MB<extra>"
            f"{region}</extra>",
            mode="lines+markers",
            name=str(region),
            line={"color": qualitative.D3[number % len(qualitative.D3)]},
        )
    figure.update_layout(
        template="plotly_white",
        height=480,
        title=title,
        xaxis={"title": "weights set to zero, %"},
        yaxis={"title": "Dice (95 % interval over patients)", "range": [0, 1]},
    )
    return figure


def sensitivity_figure(table: pd.DataFrame, title: str) -> go.Figure:
    """One bar per layer, from the input to the heads: change of mean Dice when it alone is pruned.

    Args:
        table: Rows with ``layer``, ``num_weights`` and ``change``, in the network's order.
    """
    figure = go.Figure(
        go.Bar(
            x=table["change"],
            y=table["layer"],
            orientation="h",
            customdata=table["num_weights"],
            hovertemplate="%{y}: %{x:+.4f} (%{customdata:,} weights)<extra></extra>",
            marker={"color": qualitative.D3[0]},
        )
    )
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_layout(
        template="plotly_white",
        height=MARGIN_HEIGHT + ROW_HEIGHT * len(table),
        title=title,
        xaxis={"title": "change of mean Dice"},
    )
    return figure
