"""What a study shows: its history, what matters, where good and feasible points lie."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import optuna.visualization as plots
import pandas as pd
import plotly.graph_objects as go
from optuna.trial import FrozenTrial

from bratsml.tuning.settings import Objective
from bratsml.tuning.space import Choice
from bratsml.tuning.study import SharedStudy
from bratsml.tuning.table import trials_table

FEWEST_FOR_IMPORTANCE = 4
COLOURS = {
    "complete": "#2b8a3e",
    "pruned": "#1971c2",
    "infeasible": "#e03131",
    "diverged": "#9c36b5",
    "failed": "#212529",
}
TEMPLATE = "plotly_white"


def study_figures(
    study: SharedStudy, objectives: Sequence[Objective], budget_gb: float | None
) -> list[go.Figure]:
    """Every figure that the trials so far allow, in reading order; empty before any has ended.

    Best so far and history, feasibility map, then (with complete trials) slices, parallel
    coordinates, importances and, with several objectives, the Pareto front.
    """
    table = trials_table(study.trials(), objectives)
    table = table[~table["outcome"].isin(["queued", "running"])]
    figures = []
    if len(table):
        figures += [best_so_far(table, objectives[0]), feasibility_map(study, table, budget_gb)]
    figures += _of_optuna(study, objectives, complete=int((table["outcome"] == "complete").sum()))
    return figures


def best_so_far(table: pd.DataFrame, objective: Objective = "dice") -> go.Figure:
    """Score of every complete trial, and the best up to each.

    Args:
        table: As :func:`~bratsml.tuning.table.trials_table` gives it.
    """
    complete = table[table["outcome"] == "complete"]
    figure = go.Figure()
    figure.add_scatter(
        x=complete["trial"],
        y=complete[objective],
        mode="markers",
        name="trial",
        marker={"color": COLOURS["complete"], "size": 9},
    )
    figure.add_scatter(
        x=complete["trial"],
        y=complete[objective].cummax(),
        mode="lines",
        line={"shape": "hv", "color": "#212529"},
        name="best so far",
    )
    return figure.update_layout(
        title="History and best so far",
        xaxis_title="trial",
        yaxis_title=objective,
        template=TEMPLATE,
    )


def feasibility_map(study: SharedStudy, table: pd.DataFrame, budget_gb: float | None) -> go.Figure:
    """Predicted peak memory of every trial against its choices, coloured by how it ended."""
    names = [
        name
        for name, dimension in study.space.dimensions.items()
        if isinstance(dimension, Choice) and len(dimension.values) > 1 and name in table
    ]
    shown = table.assign(
        choices=[
            ", ".join(f"{name.split('.')[-1]} {row[name]}" for name in names) or "all"
            for _, row in table.iterrows()
        ]
    ).sort_values("memory_gb")
    figure = go.Figure()
    for outcome, rows in shown.groupby("outcome", sort=False):
        unknown = rows["memory_gb"].isna()
        figure.add_scatter(
            x=rows["choices"],
            y=rows["memory_gb"].where(~unknown, 0.0),
            mode="markers",
            name=str(outcome),
            marker={"color": COLOURS.get(str(outcome), "#868e96"), "size": 10},
            customdata=rows[["trial", "reason"]],
            hovertemplate="trial %{customdata[0]}, %{y:.2f} GB<br>%{customdata[1]}",
        )
    if budget_gb is not None:
        figure.add_hline(y=budget_gb, line_dash="dash", annotation_text=f"budget {budget_gb:g} GB")
    return figure.update_layout(
        title="Feasibility: predicted peak memory (0 where it was not predicted)",
        yaxis_title="GB",
        template=TEMPLATE,
    )


def _of_optuna(
    study: SharedStudy, objectives: Sequence[Objective], complete: int
) -> list[go.Figure]:
    """Optuna's own figures of the first objective, as far as there are trials for them."""
    if not complete:
        return []
    name = str(objectives[0])
    target: dict[str, Any] = {"target": _first_value, "target_name": name}
    makers: list[Callable[[], go.Figure]] = [
        lambda: plots.plot_slice(study.study, **target),
        lambda: plots.plot_parallel_coordinate(study.study, **target),
    ]
    if complete >= FEWEST_FOR_IMPORTANCE:
        # importances are those for reaching low values of the target
        makers.append(
            lambda: plots.plot_param_importances(
                study.study, target=lambda trial: -_first_value(trial), target_name=name
            )
        )
    if len(objectives) in (2, 3):
        makers.append(lambda: plots.plot_pareto_front(study.study, target_names=list(objectives)))
    figures = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for make in makers:
            try:
                figures.append(make().update_layout(template=TEMPLATE))
            except (ValueError, RuntimeError):  # e.g. all values equal: no importance to show
                continue
    return figures


def _first_value(trial: FrozenTrial) -> float:
    return trial.values[0] if trial.values else math.nan
