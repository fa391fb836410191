"""Pictures of an evaluation: distributions, lesion volume, and where points are lost."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import qualitative

HEIGHT = 460
LOST = {
    "lost_missed": "missed lesions",
    "lost_made_up": "false lesions",
    "lost_boundary": "boundary",
}


def distribution_figure(table: pd.DataFrame, metric: str, title: str) -> go.Figure:
    """One box per region with every case beside it.

    Args:
        table: Case x region rows; NaN is left out.
        metric: Column that is shown.
    """
    figure = go.Figure()
    for number, (region, part) in enumerate(table.groupby("region", sort=False)):
        figure.add_box(
            y=part[metric],
            text=part["case"],
            name=str(region),
            boxpoints="all",
            jitter=0.4,
            boxmean=True,
            marker={"color": qualitative.D3[number % len(qualitative.D3)], "size": 4},
            hovertemplate="%{text}: %{y:.3f}<extra></extra>",
        )
    return _dressed(figure, title)


def volume_figure(table: pd.DataFrame) -> go.Figure:
    """Dice against the volume of the reference, per region; empty references are left out."""
    figure = go.Figure()
    for number, (region, part) in enumerate(table.groupby("region", sort=False)):
        there = part[part["reference_ml"] > 0]
        figure.add_scatter(
            x=there["reference_ml"],
            y=there["dice"],
            text=there["case"],
            mode="markers",
            name=str(region),
            marker={"color": qualitative.D3[number % len(qualitative.D3)], "size": 7},
            hovertemplate="%{text}: %{x:.1f} ml, Dice %{y:.3f}<extra></extra>",
        )
    figure.update_xaxes(type="log", title="volume of the reference (ml)")
    figure.update_yaxes(title="Dice", range=[-0.02, 1.02])
    return _dressed(figure, "Dice against lesion volume")


def lost_figure(lost: pd.DataFrame) -> go.Figure:
    """What Dice lacks, per region, stacked by where it is lost.

    Args:
        lost: As :func:`bratsml.evaluation.summary.lost_by_kind` gives it.
    """
    figure = go.Figure()
    for kind, name in LOST.items():
        figure.add_bar(x=lost["region"], y=lost[kind], name=name)
    figure.update_layout(barmode="stack")
    figure.update_yaxes(title="mean of 1 - Dice")
    return _dressed(figure, "Where points are lost")


def _dressed(figure: go.Figure, title: str) -> go.Figure:
    figure.update_layout(title=title, template="plotly_white", height=HEIGHT)
    return figure
