"""Label maps on disk against references on disk, one case at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bratsml.config import Config
from bratsml.data.checks import GRID_TOLERANCE_MM, checked_label_map, grid_distance_mm
from bratsml.data.nifti import Volume, read_volume
from bratsml.errors import DataError
from bratsml.evaluation.evaluate import EvaluationConfig, score_case
from bratsml.geometry import Spacing, spacing_mm_of
from bratsml.labels import LabelMap, LabelScheme, get_scheme
from bratsml.metrics.lesions import RegionScore, missing_case, score_lesions
from bratsml.metrics.lost_points import lost_points
from bratsml.metrics.rules import Rule, get_rule

AnyT = TypeVar("AnyT", bound=np.generic)


class ScoringConfig(Config):
    """How label maps are read and scored.

    Attributes:
        scheme: Meaning of the values, after mapping.
        regions: Scored regions; with a rule those of the rule.
        rule: Lesion-wise rule (:mod:`bratsml.metrics.rules`), empty for none.
        reference_map, prediction_map: Value in the file to value of the scheme; values that are
            not named stay as they are.
        compare_by_index: Compare voxel by voxel although the two files claim other places; shapes
            must agree all the same, and millimetres are the reference's.
        evaluation: Policy for empty masks.
    """

    scheme: str
    regions: tuple[str, ...]
    rule: str = ""
    reference_map: Mapping[int, int] = Field(default_factory=dict)
    prediction_map: Mapping[int, int] = Field(default_factory=dict)
    compare_by_index: bool = False
    evaluation: EvaluationConfig = EvaluationConfig()


@dataclass(frozen=True)
class Pair:
    """Files of one case; without a prediction the case is scored as missing."""

    case_id: str
    reference: Path
    prediction: Path | None
    config: ScoringConfig


@dataclass(frozen=True)
class Scored:
    """What came of one case: its rows, and why its prediction could not be used, if so."""

    case_id: str
    rows: tuple[dict[str, Any], ...]
    problem: DataError | None = None


def score_pair(pair: Pair) -> Scored:
    """Read, check and score one case.

    A prediction that is missing or cannot be used is scored as missing: Dice 0, the penalty as
    HD95, and whatever the rule gives for it. A reference that cannot be used gives no rows.
    """
    config, scheme = pair.config, get_scheme(pair.config.scheme)
    try:
        volume = read_volume(pair.reference, pair.case_id)
        reference = _label_map(volume, pair.reference, pair.case_id, scheme, config.reference_map)
    except DataError as error:
        return Scored(pair.case_id, (), error)
    problem: DataError | None = None
    prediction: LabelMap | None = None
    if pair.prediction is None:
        problem = DataError(pair.case_id, "", "has no prediction", "predict it and score again")
    else:
        try:
            prediction = _read_prediction(pair.prediction, volume, pair, scheme)
        except DataError as error:
            problem = error
    spacing_mm = spacing_mm_of(volume.affine)
    rows = score_label_maps(pair.case_id, prediction, reference, spacing_mm, config)
    return Scored(pair.case_id, tuple(rows), problem)


def _read_prediction(path: Path, reference: Volume, pair: Pair, scheme: LabelScheme) -> LabelMap:
    volume = read_volume(path, pair.case_id)
    shape, expected = volume.data.shape, reference.data.shape
    if shape != expected:
        shown, wanted = ("x".join(map(str, s)) for s in (shape, expected))
        reason = f"has shape {shown}, the reference {wanted}"
        raise DataError(pair.case_id, path.name, reason, "predict on the case's own grid")
    distance = grid_distance_mm(volume.affine, reference.affine, (shape[0], shape[1], shape[2]))
    if distance > GRID_TOLERANCE_MM and not pair.config.compare_by_index:
        ours, theirs = (_shown(v.affine) for v in (volume, reference))
        raise DataError(
            pair.case_id,
            path.name,
            f"lies up to {distance:.1f} mm away from its reference (affine {ours}, not {theirs})",
            "write it with the case's affine, or pass --compare-by-index if only the header is "
            "wrong",
        )
    return _label_map(volume, path, pair.case_id, scheme, pair.config.prediction_map)


def _label_map(
    volume: Volume, path: Path, case_id: str, scheme: LabelScheme, mapping: Mapping[int, int]
) -> LabelMap:
    return checked_label_map(mapped(volume.data, mapping), path.name, case_id, scheme)


def mapped(data: npt.NDArray[AnyT], mapping: Mapping[int, int]) -> npt.NDArray[AnyT]:
    """A volume with values changed, each once and by what it was; itself without a mapping."""
    if not mapping:
        return data
    changed = data.copy()
    for value, new in mapping.items():
        changed[data == value] = new
    return changed


def score_label_maps(
    case_id: str,
    prediction: LabelMap | None,
    reference: LabelMap,
    spacing_mm: Spacing,
    config: ScoringConfig,
) -> list[dict[str, Any]]:
    """Rows of one case: whole regions, where points are lost, and the rule's scores.

    Args:
        prediction: Shape ``(X, Y, Z)`` in the scheme's values; ``None`` scores the case as missing.
        reference: Same shape.
    """
    scheme = get_scheme(config.scheme)
    missing = prediction is None
    given = np.zeros_like(reference) if prediction is None else prediction
    ours, theirs = (scheme.region_stack(m, config.regions) for m in (given, reference))
    rows = score_case(case_id, ours, theirs, config.regions, spacing_mm, config.evaluation)
    for row, mask, truth in zip(rows, ours, theirs, strict=True):
        lost = lost_points(mask, truth)
        row |= {
            "lost_missed": lost.missed,
            "lost_made_up": lost.made_up,
            "lost_boundary": lost.boundary,
            "missing": missing,
        }
        if missing:  # a case that was not predicted is never perfect, not even without tumour
            diagonal_mm = math.hypot(*np.multiply(reference.shape, spacing_mm))
            row["dice"] = 0.0
            row["hd95_mm"] = config.evaluation.hd95_penalty_mm or diagonal_mm
    if config.rule:
        rule = get_rule(config.rule)
        scores = _by_rule(None if missing else given, reference, spacing_mm, scheme, rule)
        by_region = {score.region: score for score in scores}
        for row in rows:
            row |= _columns(by_region[row["region"]], rule)
    return rows


def _by_rule(
    prediction: LabelMap | None,
    reference: LabelMap,
    spacing_mm: Spacing,
    scheme: LabelScheme,
    rule: Rule,
) -> tuple[RegionScore, ...]:
    if prediction is None:
        return missing_case(rule)
    names = [name for name in rule.tissues if name in scheme.regions]
    ours, theirs = (
        dict(zip(names, scheme.region_stack(label_map, names), strict=True))
        for label_map in (prediction, reference)
    )
    return score_lesions(ours, theirs, spacing_mm, rule)


def _columns(score: RegionScore, rule: Rule) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "rule_dice": score.dice,
        "rule_hd95_mm": score.hd95_mm,
        "lesion_dice": score.lesion_dice,
        "lesion_hd95_mm": score.lesion_hd95_mm,
        "num_matched": score.num_matched,
        "num_missed": score.num_missed,
        "num_false": score.num_false,
        "sensitivity": score.sensitivity,
        "specificity": score.specificity,
    }
    for place, tolerance in enumerate(rule.tolerances_mm):
        columns[f"rule_nsd_{tolerance:g}mm"] = score.nsd[place]
        columns[f"lesion_nsd_{tolerance:g}mm"] = score.lesion_nsd[place]
    return columns


def _shown(affine: npt.NDArray[np.float64]) -> str:
    return "; ".join(" ".join(f"{value:g}" for value in row) for row in affine[:3])
