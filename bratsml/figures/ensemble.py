"""Pictures of an ensemble: what its members cost and bring, and their weights."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

HEIGHT = 460
FRONT, OTHERS = "#e8590c", "#868e96"


def pareto_figure(table: pd.DataFrame, title: str) -> go.Figure:
    """Mean Dice against number of models and against seconds per case; the best are joined.

    Args:
        table: As :func:`bratsml.ensembling.pareto.pareto_table` gives it.
    """
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    panels = (
        ("num_models", "best_for_models", "models (each the mean of its folds)"),
        ("seconds_per_case", "best_for_seconds", "seconds of inference per case"),
    )
    for column, (cost, front, label) in enumerate(panels, start=1):
        for is_front, name, colour in ((False, "others", OTHERS), (True, "front", FRONT)):
            part = table[table[front] == is_front].sort_values(cost)
            figure.add_scatter(
                x=part[cost],
                y=part["dice"],
                text=part["members"],
                hovertemplate="%{text}<br>Dice %{y:.4f}<br>%{x:.3g} " + label + "<extra></extra>",
                mode="lines+markers" if is_front else "markers",
                line={"color": colour, "shape": "hv"},
                marker={"color": colour, "size": 10 if is_front else 7},
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                row=1,
                col=column,
            )
        figure.update_xaxes(title_text=label, row=1, col=column)
    figure.update_xaxes(dtick=1, row=1, col=1)
    figure.update_yaxes(title_text="mean Dice, out of fold", row=1, col=1)
    figure.update_layout(height=HEIGHT, template="plotly_white", title=title)
    return figure


def weights_figure(weights: pd.DataFrame) -> go.Figure:
    """Weight of each model by region, with every group's fit as a point.

    Args:
        weights: Columns ``model``, ``region``, ``weight`` and ``group``; the group ``all`` is what
            new cases get.
    """
    figure = go.Figure()
    whole = weights[weights["group"] == "all"]
    for model, part in whole.groupby("model", sort=False):
        figure.add_bar(x=part["region"], y=part["weight"], name=str(model), offsetgroup=str(model))
    for model, part in weights[weights["group"] != "all"].groupby("model", sort=False):
        figure.add_box(
            x=part["region"],
            y=part["weight"],
            name=f"{model}, cross-fitted",
            offsetgroup=str(model),
            boxpoints="all",
            pointpos=0,
            fillcolor="rgba(0,0,0,0)",
            line={"color": "rgba(0,0,0,0)"},
            marker={"color": "#212529", "size": 5},
            showlegend=False,
        )
    figure.update_layout(
        barmode="group",
        boxmode="group",
        height=HEIGHT,
        template="plotly_white",
        title="Fitted weights; points are the fits without one group of patients",
        yaxis={"title": "weight", "range": [0, 1]},
    )
    return figure
