"""A sweep in two pictures: every combination's score with its interval, and what they have set."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import qualitative

ROW_HEIGHT, MARGIN_HEIGHT, PARALLEL_HEIGHT = 26, 160, 460
LONGEST_LABEL = 60


def scores_figure(results: pd.DataFrame, regions: Sequence[str]) -> go.Figure:
    """One bar per combination and region, with its 95 % interval; the first combination on top.

    Args:
        results: Columns ``combination`` and, per region, ``dice_R``, ``dice_R_low95`` and
            ``dice_R_high95``; combinations without a score (NaN) have no bar.
        regions: In the order shown; ``mean`` may be one of them.
    """
    scored = results.dropna(subset=[f"dice_{region}" for region in regions])
    names = [_short(str(label)) for label in scored["combination"]]
    figure = go.Figure()
    for number, region in enumerate(regions):
        dice = scored[f"dice_{region}"]
        figure.add_bar(
            y=names,
            x=dice,
            name=region,
            orientation="h",
            marker={"color": qualitative.D3[number % len(qualitative.D3)]},
            error_x={
                "array": scored[f"dice_{region}_high95"] - dice,
                "arrayminus": dice - scored[f"dice_{region}_low95"],
                "thickness": 1,
            },
            hovertemplate=f"{region}: %{{x:.4f}}<extra>%{{y}}</extra>",
        )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(title_text="Dice (95 % interval over cases)", range=[0, 1])
    height = MARGIN_HEIGHT + ROW_HEIGHT * max(1, len(names)) * max(1, len(regions))
    figure.update_layout(height=height, template="plotly_white", barmode="group")
    return figure


def settings_figure(results: pd.DataFrame, settings: Sequence[str], score: str) -> go.Figure:
    """Parallel coordinates: one line per combination through its settings to its score.

    Numbers and text alike are shown as evenly spaced steps, in the order of the grid.

    Args:
        results: One column per setting and the score; combinations without a score are left out.
        settings: Columns that are shown, in order.
        score: Column of the score, which gives the colour.
    """
    scored = results.dropna(subset=[score])
    dimensions = []
    for name in settings:
        steps = list(dict.fromkeys(results[name].astype(str)))
        dimensions.append(
            {
                "label": name,
                "values": [steps.index(value) for value in scored[name].astype(str)],
                "tickvals": list(range(len(steps))),
                "ticktext": steps,
                "range": [-0.5, len(steps) - 0.5],
            }
        )
    dimensions.append({"label": score.replace("_", " "), "values": scored[score]})
    line = {"color": scored[score], "colorscale": "Viridis", "showscale": len(scored) > 1}
    figure = go.Figure(go.Parcoords(line=line, dimensions=dimensions))
    figure.update_layout(
        height=PARALLEL_HEIGHT, template="plotly_white", margin={"l": 90, "r": 60, "t": 70, "b": 40}
    )
    return figure


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"
