"""Two results side by side: differences with their intervals, and every patient's change."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

UNITS = {
    "dice": "Dice",
    "hd95_mm": "HD95 (mm)",
    "lesion_dice": "lesion-wise Dice",
    "lesion_hd95_mm": "lesion-wise HD95 (mm)",
}
BETTER, WORSE, SAME = "#2b8a3e", "#c92a2a", "#868e96"
SLOPES_HEIGHT, ROW_HEIGHT, MARGIN_HEIGHT = 460, 44, 150


def difference_figure(comparison: pd.DataFrame, first: str, second: str) -> go.Figure:
    """Mean difference and 95 % interval per region, one panel per metric, and the line of none.

    Args:
        comparison: As :func:`bratsml.evaluation.compare.compare` gives it.
        first, second: Names of the two results.
    """
    metrics = list(dict.fromkeys(comparison["metric"]))
    titles = [f"{UNITS.get(metric, metric)}: {second} minus {first}" for metric in metrics]
    figure = make_subplots(rows=1, cols=max(1, len(metrics)), subplot_titles=titles or None)
    for number, metric in enumerate(metrics, start=1):
        part = comparison[comparison["metric"] == metric][::-1]
        figure.add_trace(
            go.Scatter(
                x=part["difference"],
                y=part["region"],
                error_x={
                    "array": part["high95"] - part["difference"],
                    "arrayminus": part["difference"] - part["low95"],
                },
                mode="markers",
                marker={"size": 10, "color": [_colour(v) for v in part["verdict"]]},
                text=part["verdict"],
                hovertemplate="%{y}: %{x:.4f}<br>%{text}<extra></extra>",
                showlegend=False,
            ),
            row=1,
            col=number,
        )
        figure.add_vline(x=0, line={"color": SAME, "dash": "dot"}, row=1, col=number)
    regions = comparison["region"].nunique()
    figure.update_layout(height=MARGIN_HEIGHT + ROW_HEIGHT * regions, template="plotly_white")
    return figure


def slopes_figure(
    first: pd.DataFrame, second: pd.DataFrame, names: tuple[str, str], metric: str = "dice"
) -> go.Figure:
    """One line per case from its score in the first result to that in the second, by region.

    Args:
        first, second: Case x region tables of the same cases; cases without a score in one of
            them have no line.
        names: Of the two results.
        metric: Column that is shown; higher must be better.
    """
    regions = list(dict.fromkeys(first["region"]))
    both = first.merge(second, on=["case", "region"], suffixes=("_first", "_second"))
    figure = make_subplots(
        rows=1, cols=max(1, len(regions)), subplot_titles=regions or None, shared_yaxes=True
    )
    for number, region in enumerate(regions, start=1):
        for row in both[both["region"] == region].to_dict("records"):
            scores = [row[f"{metric}_first"], row[f"{metric}_second"]]
            change = scores[1] - scores[0]
            if pd.isna(change):
                continue
            colour = SAME if abs(change) < 0.005 else BETTER if change > 0 else WORSE
            figure.add_trace(
                go.Scatter(
                    x=list(names),
                    y=scores,
                    mode="lines+markers",
                    line={"color": colour, "width": 1.5},
                    name=str(row["case"]),
                    hovertemplate=f"{row['case']}: %{{y:.3f}} ({change:+.3f})<extra></extra>",
                    showlegend=False,
                ),
                row=1,
                col=number,
            )
    figure.update_yaxes(title_text=UNITS.get(metric, metric), row=1, col=1)
    figure.update_layout(height=SLOPES_HEIGHT, template="plotly_white")
    return figure


def _colour(verdict: str) -> str:
    return {"second is better": BETTER, "first is better": WORSE}.get(verdict, SAME)
