"""The case x region table of scores, and what it says in sum."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field, field_validator

from bratsml.config import Config
from bratsml.errors import DataError
from bratsml.geometry import Spacing
from bratsml.metrics.empty import POLICIES, PolicyName
from bratsml.metrics.masks import require_masks, require_spacing
from bratsml.metrics.overlap import dice
from bratsml.metrics.rules import RULES
from bratsml.metrics.surface import hausdorff95_mm

COLUMNS = ("case", "region", "dice", "hd95_mm", "reference_ml", "prediction_ml", "empty")


RULE_OF_SCHEME = {
    "brats2021": "brats2023-gli",
    "brats2023": "brats2023-gli",
    "decathlon": "brats2023-gli",
    "brats2024-gli": "brats2024-gli",
    "brats2024-ped": "brats2024-ped",
    "brats2024-men-rt": "brats2024-men-rt",
    "brats2025-met": "brats2025-met",
}
"""Before 2023 there was no lesion-wise rule; the first one is taken, by its name."""


class EvaluationConfig(Config):
    """How predictions are scored.

    Attributes:
        empty: Policy for empty masks (:mod:`bratsml.metrics.empty`).
        hd95_penalty_mm: HD95 when exactly one mask is empty, under policies that punish it;
            ``None`` for the diagonal of the volume.
        rule: Lesion-wise rule of the final scores; ``auto`` takes the one of the label scheme's
            year (2023's glioma rule for 2019 to 2023), ``none`` leaves lesions out. While training
            only whole regions are scored.
        keep_probabilities: Keep the validation cases' probabilities, compressed, beside the scores;
            ``tune-postprocess`` and ``calibration`` read them.
    """

    empty: PolicyName = "brats"
    hd95_penalty_mm: float | None = Field(default=None, gt=0)
    rule: str = "auto"
    keep_probabilities: bool = True

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, value: str) -> str:
        if value not in ("auto", "none", *RULES):
            raise ValueError(f"use auto, none or one of {', '.join(RULES)}")
        return value

    def rule_for(self, scheme: str) -> str:
        """Name of the lesion-wise rule for labels of that scheme, empty for none."""
        if self.rule == "none":
            return ""
        return RULE_OF_SCHEME.get(scheme, "") if self.rule == "auto" else self.rule


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

    Returns:
        Columns :data:`COLUMNS`; ``empty`` is ``""``, ``"prediction"``, ``"reference"`` or
        ``"both"``. Dice and HD95 are NaN where the policy leaves the case out.

    Raises:
        DataError: Not boolean, different shapes, not one mask per region, or voxel sizes that are
            not finite and above 0.
    """
    try:
        require_masks(prediction, reference)
    except ValueError as error:
        remedy = "threshold the probabilities on the grid of the reference"
        raise DataError(case_id, "", str(error), remedy) from error
    try:
        require_spacing(spacing_mm)
    except ValueError as error:
        raise DataError(case_id, "", str(error), "mend the affine of its files") from error
    if prediction.ndim != 4 or len(prediction) != len(regions):
        reason = f"masks of shape {prediction.shape} for {len(regions)} regions"
        raise DataError(case_id, "", reason, "give one volume per region")
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


def summarize(table: pd.DataFrame, prefix: str = "val") -> dict[str, float]:
    """Means over cases for the log.

    ``{prefix}/dice/ET`` and so on per region, ``{prefix}/dice/mean`` as the mean of those; the same
    for ``hd95`` in mm. ``{prefix}/num_cases`` says over how many cases; where the mean of a region
    leaves some out (NaN in the table), ``{prefix}/num_left_out/dice/ET`` says how many. A region
    without any score is missing and not in ``mean``.
    """
    metrics = {f"{prefix}/num_cases": float(table["case"].nunique())}
    for column, name in (("dice", "dice"), ("hd95_mm", "hd95")):
        means = []
        for region, values in table.groupby("region", sort=False)[column]:
            scored = values.dropna()
            if len(scored) < len(values):
                left_out = len(values) - len(scored)
                metrics[f"{prefix}/num_left_out/{name}/{region}"] = float(left_out)
            if len(scored):
                means.append(float(scored.mean()))
                metrics[f"{prefix}/{name}/{region}"] = means[-1]
        if means:
            metrics[f"{prefix}/{name}/mean"] = float(np.mean(means))
    return metrics


def typical_cases(table: pd.DataFrame) -> dict[str, str]:
    """Case ids of the ``worst``, ``median`` and ``best`` case by mean Dice over regions.

    Cases without any Dice are passed over. With fewer than three cases each is named once, the
    worst first; ties go to the case that comes first in the table.
    """
    means = table.groupby("case", sort=False)["dice"].mean().dropna().sort_values(kind="stable")
    last = len(means) - 1
    named: dict[str, str] = {}
    for place, index in (("worst", 0), ("median", last // 2), ("best", last)):
        if last >= 0 and str(means.index[index]) not in named.values():
            named[place] = str(means.index[index])
    return named


def dice_by_region(table: pd.DataFrame, case_id: str) -> dict[str, float]:
    """Dice of one case by region, NaN where it was left out; for titles and legends."""
    rows = table[table["case"] == case_id]
    return {str(r): float(d) for r, d in zip(rows["region"], rows["dice"], strict=True)}


def _which_is_empty(predicted: bool, true: bool) -> str:
    if predicted and true:
        return ""
    if not predicted and not true:
        return "both"
    return "reference" if predicted else "prediction"
