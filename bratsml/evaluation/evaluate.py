"""The case x region table of scores, and what it says in sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from bratsml.config import Config
from bratsml.geometry import Spacing
from bratsml.metrics.empty import POLICIES, PolicyName
from bratsml.metrics.overlap import dice
from bratsml.metrics.surface import hausdorff95_mm

COLUMNS = ("case", "region", "dice", "hd95_mm", "reference_ml", "prediction_ml", "empty")


class EvaluationConfig(Config):
    """How predictions are scored.

    Attributes:
        empty: Policy for empty masks (:mod:`bratsml.metrics.empty`).
        hd95_penalty_mm: HD95 when exactly one mask is empty, under policies that punish it;
            ``None`` for the diagonal of the volume.
    """

    empty: PolicyName = "brats"
    hd95_penalty_mm: float | None = Field(default=None, gt=0)


def score_case(
    case_id: str,
    prediction: npt.NDArray[np.bool_],
    reference: npt.NDArray[np.bool_],
    regions: Sequence[str],
    spacing_mm: Spacing,
    config: EvaluationConfig,
) -> list[dict[str, Any]]:
    """One row per region: Dice, HD95, volumes, and which masks were empty.

    Args:
        prediction: Region masks of shape ``(R, X, Y, Z)`` on the case's own grid.
        reference: Same shape as ``prediction``.
        regions: Their names, in order.

    Raises:
        ValueError: Not boolean, different shapes, or not one mask per region.
    """
    if len(prediction) != len(regions):
        raise ValueError(f"{len(prediction)} masks for {len(regions)} regions")
    policy = POLICIES[config.empty]
    voxel_ml = math.prod(spacing_mm) / 1000
    rows = []
    for name, ours, truth in zip(regions, prediction, reference, strict=True):
        rows.append(
            {
                "case": case_id,
                "region": name,
                "dice": dice(ours, truth, policy),
                "hd95_mm": hausdorff95_mm(ours, truth, spacing_mm, policy, config.hd95_penalty_mm),
                "reference_ml": int(truth.sum()) * voxel_ml,
                "prediction_ml": int(ours.sum()) * voxel_ml,
                "empty": _which_is_empty(bool(ours.any()), bool(truth.any())),
            }
        )
    return rows


def case_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows as a table; columns beyond the scores (``model``, ``fold``) come along."""
    table = pd.DataFrame(list(rows))
    return table if len(table) else pd.DataFrame(columns=list(COLUMNS))


def summarize(table: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Means over cases for the log.

    ``{prefix}/dice/ET`` and so on per region, ``{prefix}/dice/mean`` as the mean of those; the same
    for ``hd95`` in mm. Where a policy leaves cases out, ``{prefix}/num_cases/ET`` says over how
    many the mean is. A region without any scored case is missing, and so is the mean then.
    """
    metrics: dict[str, float] = {}
    for column, name in (("dice", "dice"), ("hd95_mm", "hd95")):
        means = []
        for region, values in table.groupby("region", sort=False)[column]:
            scored = values.dropna()
            if len(scored) < len(values):
                metrics[f"{prefix}/num_cases/{region}"] = float(len(scored))
            if len(scored):
                metrics[f"{prefix}/{name}/{region}"] = float(scored.mean())
            means.append(float(scored.mean()) if len(scored) else math.nan)
        mean = float(np.mean(means)) if means else math.nan
        if not math.isnan(mean):
            metrics[f"{prefix}/{name}/mean"] = mean
    return metrics


def _which_is_empty(predicted: bool, true: bool) -> str:
    if predicted and true:
        return ""
    if not predicted and not true:
        return "both"
    return "reference" if predicted else "prediction"
