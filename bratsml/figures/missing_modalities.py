"""Heat map of a network's scores over the subsets of modalities."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

ROW_HEIGHT, MARGIN_HEIGHT = 30, 150


def missing_modalities_figure(table: pd.DataFrame, title: str) -> go.Figure:
    """Two panels of subset x region: mean Dice, and its difference to all modalities.

    Args:
        table: As :func:`bratsml.evaluation.missing_modalities.subset_table` gives it; rows of other
            metrics than Dice are passed over. Its order is the order from above.
    """
    dice = table[table["metric"] == "dice"]
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.16,
        subplot_titles=("mean Dice", "minus Dice with all"),
    )
    _add_panel(figure, dice, ("mean", "low95", "high95"), 1)
    _add_panel(figure, dice, ("difference", "difference_low95", "difference_high95"), 2)
    figure.update_yaxes(autorange="reversed", type="category")
    height = MARGIN_HEIGHT + ROW_HEIGHT * dice["subset"].nunique()
    figure.update_layout(height=height, template="plotly_white", title=title)
    return figure


def _add_panel(
    figure: go.Figure, dice: pd.DataFrame, columns: tuple[str, str, str], number: int
) -> None:
    """One heat map with the values in its cells and their intervals on hovering."""
    subsets, regions = (list(dict.fromkeys(dice[name])) for name in ("subset", "region"))
    value, low, high = (
        dice.pivot(index="subset", columns="region", values=name).loc[subsets, regions]
        for name in columns
    )
    is_difference = number == 2
    form = "+.3f" if is_difference else ".3f"
    spread = {"zmin": -1, "zmax": 1, "zmid": 0} if is_difference else {"zmin": 0, "zmax": 1}
    figure.add_trace(
        go.Heatmap(
            x=regions,
            y=subsets,
            z=value.to_numpy(),
            customdata=[
                [f"{a:{form}} to {b:{form}}" for a, b in zip(lows, highs, strict=True)]
                for lows, highs in zip(low.to_numpy(), high.to_numpy(), strict=True)
            ],
            texttemplate=f"%{{z:{form}}}",
            hovertemplate=f"%{{y}}, %{{x}}: %{{z:{form}}} (%{{customdata}})<extra></extra>",
            colorscale="RdBu" if is_difference else "Viridis",
            colorbar={"x": 1.02 if is_difference else 0.43, "thickness": 12},
            **spread,
        ),
        row=1,
        col=number,
    )
