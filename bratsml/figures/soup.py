"""Scores of a soup's ingredients and of the soups, side by side."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

COLOURS = {
    "ingredient": "#adb5bd",
    "best single": "#495057",
    "soup": "#1c7ed6",
    "chosen on these cases": "#a5d8ff",
}
"""Kinds of bars; the last is of a soup that was chosen on the cases it is scored on."""
ROW_HEIGHT, MARGIN_HEIGHT = 26, 150


def soup_figure(bars: pd.DataFrame, title: str) -> go.Figure:
    """One bar per network, the first on top, in the colour of its kind.

    The axis begins below the smallest score, as ingredients often differ in the third decimal.

    Args:
        bars: Columns ``name`` (unique), ``kind`` (a key of :data:`COLOURS`), ``dice`` (mean over
            regions and cases; NaN draws nothing) and ``share`` of the published soup (NaN for what
            is no ingredient).
    """
    figure = go.Figure()
    for kind, colour in COLOURS.items():
        part = bars[bars["kind"] == kind]
        if not len(part):
            continue
        shares = ["" if pd.isna(share) else f"<br>share {share:.3f}" for share in part["share"]]
        figure.add_trace(
            go.Bar(
                x=part["dice"],
                y=part["name"],
                name=kind,
                orientation="h",
                marker={"color": colour},
                text=[f"{value:.4f}" for value in part["dice"]],
                customdata=shares,
                hovertemplate="%{y}: %{x:.4f}%{customdata}<extra></extra>",
            )
        )
    scores = bars["dice"].dropna()
    low, high = (scores.min(), scores.max()) if len(scores) else (0.0, 1.0)
    room = max(high - low, 0.01)
    figure.update_xaxes(title_text="mean Dice", range=[max(0, low - 0.3 * room), high + room / 4])
    figure.update_yaxes(categoryorder="array", categoryarray=list(bars["name"])[::-1])
    figure.update_layout(
        height=MARGIN_HEIGHT + ROW_HEIGHT * len(bars), template="plotly_white", title=title
    )
    return figure
