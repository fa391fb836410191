"""What the folds of a cross-validation say: training curves and the table of fold x region."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import qualitative
from plotly.subplots import make_subplots

MEAN_COLOUR = "#212529"
FOLD_OPACITY = 0.55
PANEL_HEIGHT, MARGIN_HEIGHT, ROW_HEIGHT = 260, 120, 28
COLUMNS = 2


def fold_curves(curves: pd.DataFrame) -> go.Figure:
    """One panel per metric: a thin line per fold, and their mean over the epochs all folds have.

    Args:
        curves: Columns ``fold``, ``metric``, ``epoch``, ``value``; may be empty.
    """
    names = list(dict.fromkeys(curves["metric"]))
    folds = sorted(curves["fold"].unique())
    columns = min(COLUMNS, max(1, len(names)))
    rows = max(1, math.ceil(len(names) / columns))
    figure = make_subplots(rows=rows, cols=columns, subplot_titles=names or None)
    for index, name in enumerate(names):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        panel = curves[curves["metric"] == name].sort_values("epoch")
        for number, fold in enumerate(folds):
            line = panel[panel["fold"] == fold]
            colour = qualitative.D3[number % len(qualitative.D3)]
            _add_line(figure, line["epoch"], line["value"], f"fold {fold}", colour, place)
        mean = _mean_of_complete(panel)
        _add_line(figure, mean.index, mean, "mean of folds", MEAN_COLOUR, place)
        figure.update_xaxes(title_text="epoch", **place)
    height = MARGIN_HEIGHT + PANEL_HEIGHT * rows
    figure.update_layout(height=height, template="plotly_white", hovermode="x unified")
    return figure


def fold_table_figure(table: pd.DataFrame) -> go.Figure:
    """The table of fold x region Dice as a picture.

    Args:
        table: One row per fold, then its summaries ``mean`` and ``spread``, which are shaded.
    """
    return table_figure(table, "Dice by fold and region")


def table_figure(table: pd.DataFrame, title: str) -> go.Figure:
    """A table as a picture.

    Args:
        table: The first column names the row. Numbers get four decimals, text is shown as it is,
            NaN as a dash.
    """
    names = [str(name) for name in table.columns]
    cells = [[cell(value) for value in table[name]] for name in table.columns]
    summaries = [str(row) in ("mean", "spread") for row in (cells[0] if cells else [])]
    shades = ["#e7f5ff" if summary else "white" for summary in summaries]
    figure = go.Figure(
        go.Table(
            header={"values": [f"<b>{name}</b>" for name in names], "align": "right"},
            cells={
                "values": cells,
                "align": "right",
                "height": ROW_HEIGHT,
                "fill": {"color": [shades] * len(cells)},
            },
        )
    )
    height = MARGIN_HEIGHT + ROW_HEIGHT * (len(table) + 1)
    figure.update_layout(
        height=height,
        template="plotly_white",
        title=title,
        margin={"l": 30, "r": 30, "t": 60, "b": 10},  # a table taller than its room is cut off
    )
    return figure


def _mean_of_complete(panel: pd.DataFrame) -> pd.Series[float]:
    """Mean over folds by epoch, for the epochs that every fold of the panel has."""
    by_epoch = panel.groupby("epoch")["value"]
    return by_epoch.mean()[by_epoch.count() == panel["fold"].nunique()]


def _add_line(
    figure: go.Figure,
    epochs: pd.Series[int] | pd.Index[int],
    values: pd.Series[float],
    name: str,
    colour: str,
    place: dict[str, int],
) -> None:
    """Add one line; its legend entry is shown once and switches it in all panels."""
    is_mean = colour == MEAN_COLOUR
    known = {trace.name for trace in figure.data}
    figure.add_scatter(
        x=epochs,
        y=values,
        name=name,
        legendgroup=name,
        showlegend=name not in known,
        mode="lines+markers" if len(values) == 1 else "lines",
        line={"color": colour, "width": 3 if is_mean else 1.3},
        opacity=1.0 if is_mean else FOLD_OPACITY,
        **place,
    )


def cell(value: object) -> str:
    """A value as a table shows it: four decimals, 3e-07 for what these would hide, NaN a dash."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "–"
    return f"{value:.0e}" if 0 < abs(value) < 5e-4 else f"{value:.4f}"
