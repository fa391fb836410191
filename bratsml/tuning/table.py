"""The trials of a study as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from bratsml.tuning.settings import Objective
from bratsml.tuning.study import DEATHS, MEMORY, REASON, RUN, VERDICT

_WAITING = {TrialState.WAITING: "queued", TrialState.RUNNING: "running"}


def trials_table(trials: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> pd.DataFrame:
    """One row per trial.

    Returns:
        Columns ``trial``, ``outcome`` (``complete``, ``pruned``, ``infeasible``, ``diverged``,
        ``failed``, ``running`` or ``queued``), one per objective, one per setting, ``epochs``
        (reports), ``seconds``, ``memory_gb`` (predicted), ``deaths``, ``reason``, ``run_id``.
        Objectives are NaN unless complete.
    """
    rows = [_row(trial, objectives) for trial in trials]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["trial", "outcome", *objectives])


def _row(trial: FrozenTrial, objectives: Sequence[Objective]) -> dict[str, Any]:
    kept = trial.user_attrs
    complete = trial.state == TrialState.COMPLETE
    values = trial.values if complete else [math.nan] * len(objectives)
    seconds = trial.duration.total_seconds() if trial.duration else math.nan
    return {
        "trial": trial.number,
        "outcome": _WAITING.get(trial.state) or kept.get(VERDICT, trial.state.name.lower()),
        **dict(zip(objectives, values, strict=True)),
        **trial.params,
        "epochs": len(trial.intermediate_values),
        "seconds": seconds,
        "memory_gb": kept.get(MEMORY, {}).get("peak_gb", math.nan),
        "deaths": len(kept.get(DEATHS, [])),
        "reason": kept.get(REASON, ""),
        "run_id": kept.get(RUN, ""),
    }
