"""Reliability curves: how often a region is there, against how probable it was said to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.colors import qualitative


def reliability_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], errors: Mapping[str, float]
) -> go.Figure:
    """One line per region, and the diagonal of a calibrated network.

    Args:
        curves: Region to mean probability and share of true voxels by bin; NaN makes a gap.
        errors: Region to expected calibration error, shown in the legend.
    """
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        name="calibrated",
        line={"color": "#868e96", "dash": "dot"},
    )
    for number, (region, (confidence, accuracy)) in enumerate(curves.items()):
        figure.add_scatter(
            x=list(confidence),
            y=list(accuracy),
            mode="lines+markers",
            name=f"{region} (error {errors[region]:.3f})",
            line={"color": qualitative.D3[number % len(qualitative.D3)]},
        )
    figure.update_layout(
        template="plotly_white",
        height=520,
        width=640,
        xaxis={"title": "probability", "range": [0, 1]},
        yaxis={"title": "share of voxels in the region", "range": [0, 1]},
        title="Calibration, out of fold",
    )
    return figure
