"""Training curves of the folds of a cross-validation."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

FOLD_COLOUR, MEAN_COLOUR = "rgba(90, 90, 90, 0.45)", "#1c7ed6"


def fold_curves(curves: pd.DataFrame) -> go.Figure:
    """One panel per metric: a thin line per fold and their mean, for epochs that all folds have.

    Args:
        curves: Columns ``fold``, ``metric``, ``epoch``, ``value``; may be empty.
    """
    names = list(dict.fromkeys(curves["metric"]))
    figure = make_subplots(rows=max(1, len(names)), cols=1, subplot_titles=names)
    for row, name in enumerate(names, start=1):
        panel = curves[curves["metric"] == name]
        for fold, line in panel.groupby("fold"):
            figure.add_scatter(
                x=line["epoch"],
                y=line["value"],
                name=f"fold {fold}",
                line={"color": FOLD_COLOUR, "width": 1},
                showlegend=False,
                row=row,
                col=1,
            )
        by_epoch = panel.groupby("epoch")["value"]
        mean = by_epoch.mean()[by_epoch.size() == panel["fold"].nunique()]
        figure.add_scatter(
            x=mean.index,
            y=mean,
            name="mean of the folds",
            line={"color": MEAN_COLOUR, "width": 3},
            showlegend=row == 1,
            row=row,
            col=1,
        )
    figure.update_xaxes(title_text="epoch", row=max(1, len(names)), col=1)
    figure.update_layout(height=260 * max(1, len(names)), template="plotly_white")
    return figure
