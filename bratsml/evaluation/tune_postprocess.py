"""Choosing post-processing on out-of-fold probabilities, cross-fitted so that the gain is honest.

The cases of fold k are scored with the settings chosen on all other folds; only the settings that
are handed out at the end are chosen on everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
import numpy.typing as npt

from bratsml.config import Config
from bratsml.geometry import Spacing
from bratsml.inference.postprocess import (
    DropIfSmall,
    MinComponent,
    Regions,
    Step,
    Threshold,
    components,
    postprocess,
)
from bratsml.metrics.empty import EmptyPolicy
from bratsml.metrics.lesions import RegionScore, score_lesions
from bratsml.metrics.overlap import dice
from bratsml.metrics.rules import get_rule

Masks = npt.NDArray[np.bool_]
Probabilities = npt.NDArray[np.float32]
Metric = Literal["dice", "iou", "lesion_dice"]


class TuneConfig(Config):
    """What is tried, for every region on its own; the first of each list is what happens untuned.

    Attributes:
        metric: Mean over cases that is made as large as possible.
        rule: Of ``lesion_dice``; lesions of a region are then taken without regard to others.
        thresholds: Probabilities above which a voxel belongs to the region.
        min_component_voxels: Components of fewer voxels are dropped.
        drop_if_small_voxels: The innermost region is emptied below as many voxels in all.
    """

    metric: Metric = "dice"
    rule: str = "brats2023-gli"
    thresholds: tuple[float, ...] = (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8, 0.1, 0.9)
    min_component_voxels: tuple[int, ...] = (1, 10, 50, 200, 1000)
    drop_if_small_voxels: tuple[int, ...] = (1, 50, 200, 500)


@dataclass(frozen=True)
class Setting:
    """One setting of one region."""

    threshold: float
    min_component: int
    drop_if_small: int


@dataclass(frozen=True)
class CaseScores:
    """The score of every setting on one case, region to one number per setting."""

    case_id: str
    scores: Mapping[str, npt.NDArray[np.float64]]


def settings_of(region: str, regions: Regions, config: TuneConfig) -> list[Setting]:
    """The settings tried for a region, the untuned one first."""
    innermost = not regions.inner[region]
    small = config.drop_if_small_voxels if innermost else config.drop_if_small_voxels[:1]
    return [
        Setting(*values)
        for values in product(config.thresholds, config.min_component_voxels, small)
    ]


def score_settings(
    case_id: str,
    probabilities: Probabilities,
    reference: Masks,
    regions: Regions,
    config: TuneConfig,
    policy: EmptyPolicy,
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
) -> CaseScores:
    """Score every setting of every region on one case.

    Args:
        probabilities: Per region ``(R, X, Y, Z)``.
        reference: Same shape.
    """
    scores = {}
    for name in regions.names:
        place = regions.index(name)
        score = _scorer(name, reference[place], spacing_mm, config, policy)
        nothing = score(np.zeros_like(reference[place]))
        # settings come in the order of settings_of
        small = (1,) if regions.inner[name] else config.drop_if_small_voxels
        found = []
        for threshold in config.thresholds:
            mask = probabilities[place] > threshold
            numbered, sizes = components(mask)
            for min_component in config.min_component_voxels:
                kept = mask if min_component <= 1 else (sizes >= min_component)[numbered] & mask
                value, count = score(kept), int(kept.sum())
                found += [value if count >= voxels else nothing for voxels in small]
        scores[name] = np.array(found)
    return CaseScores(case_id, scores)


def choose(cases: Sequence[CaseScores], regions: Regions, config: TuneConfig) -> dict[str, Setting]:
    """The best setting of every region on those cases; of equals the first, so untuned wins a tie.

    Cases that the policy for empty masks leaves out (NaN) do not count.
    """
    chosen = {}
    for name in regions.names:
        together = np.array([case.scores[name] for case in cases])
        counted = ~np.isnan(together)
        sums = np.where(counted, together, 0).sum(axis=0)
        means = sums / np.maximum(counted.sum(axis=0), 1)
        settings = settings_of(name, regions, config)
        chosen[name] = settings[int(np.argmax(means > means.max() - 1e-9))]
    return chosen


def cross_fit(
    folds: Sequence[Sequence[CaseScores]], regions: Regions, config: TuneConfig
) -> list[dict[str, Setting]]:
    """For every fold the settings chosen on all the others."""
    return [
        choose(
            [case for other, cases in enumerate(folds) if other != fold for case in cases],
            regions,
            config,
        )
        for fold in range(len(folds))
    ]


def steps_of(chosen: Mapping[str, Setting], regions: Regions) -> tuple[Step, ...]:
    """The settings as post-processing steps; a setting that changes nothing gives none."""
    thresholds = {name: chosen[name].threshold for name in regions.names}
    steps: list[Step] = []
    if any(value != 0.5 for value in thresholds.values()):
        steps.append(Threshold(above=thresholds))
    # from the outside in: what goes takes what is inside it along
    outside_in = sorted(regions.names, key=lambda name: -len(regions.inner[name]))
    for name in outside_in:
        if chosen[name].min_component > 1:
            steps.append(MinComponent(region=name, voxels=chosen[name].min_component))
    for name in outside_in:
        if chosen[name].drop_if_small > 1:
            steps.append(DropIfSmall(region=name, voxels=chosen[name].drop_if_small))
    return tuple(steps)


def apply(
    probabilities: Probabilities, regions: Regions, chosen: Mapping[str, Setting] | None
) -> Masks:
    """Masks under the chosen settings, nested; ``None`` for untuned."""
    steps = steps_of(chosen, regions) if chosen else ()
    return postprocess(probabilities > 0.5, probabilities, regions, steps)


def _scorer(
    region: str,
    reference: Masks,
    spacing_mm: Spacing,
    config: TuneConfig,
    policy: EmptyPolicy,
) -> Callable[[Masks], float]:
    """What makes a number of a mask of the region."""
    if config.metric == "lesion_dice":
        rule = replace(get_rule(config.rule), regions=(region,), partners=())
        return lambda mask: (
            score_lesions({region: mask}, {region: reference}, spacing_mm, rule)[0].lesion_dice
        )
    if config.metric == "iou":
        return lambda mask: _iou_of(dice(mask, reference, policy))
    return lambda mask: dice(mask, reference, policy)


def lesion_score(
    region: str, mask: Masks, reference: Masks, spacing_mm: Spacing, config: TuneConfig
) -> RegionScore:
    """Lesion-wise scores of one region by the configured rule, without regard to other regions."""
    rule = replace(get_rule(config.rule), regions=(region,), partners=())
    return score_lesions({region: mask}, {region: reference}, spacing_mm, rule)[0]


def _iou_of(value: float) -> float:
    return value / (2 - value)
