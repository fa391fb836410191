"""Scores of the members of an ensemble and of what they say together, case by case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.progress import track

from bratsml.ensembling.combine import COMBINATIONS, Combination, Weights, combine
from bratsml.ensembling.fit import CaseSums, cross_fit, fit_weights, groups_of, sums_of
from bratsml.ensembling.pareto import Subset, subsets_to_score
from bratsml.ensembling.volumes import MemberVolumes, Probabilities
from bratsml.errors import ConfigError
from bratsml.evaluation.evaluate import case_table, score_case
from bratsml.evaluation.whole_cases import label_map_of
from bratsml.inference.postprocess import postprocess
from bratsml.metrics.empty import POLICIES
from bratsml.metrics.overlap import dice
from bratsml.models.output import Output
from bratsml.workflows.console import console
from bratsml.workflows.ensemble import ENSEMBLE
from bratsml.workflows.ensemble_members import (
    RunsTogether,
    fold_mean,
    region_probabilities,
    trained_run,
)

Masks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fitted:
    """Weights of every subset of the members that is looked at.

    Attributes:
        groups: Case to its group of patients.
        weights: Fitted on all cases, for new ones, ``(M, R)``.
        by_group: Subset to group to the weights fitted on all other groups.
    """

    groups: Mapping[str, int]
    weights: Weights
    by_group: Mapping[Subset, Mapping[int, Weights]]

    def for_case(self, case_id: str, subset: Subset) -> Weights:
        """Weights fitted without the case's patient."""
        return self.by_group[subset][self.groups[case_id]]


@dataclass
class Scores:
    """Rows collected case by case: of members and combinations, and of smaller subsets."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    subset_rows: list[dict[str, Any]] = field(default_factory=list)


def add_up(together: RunsTogether) -> list[CaseSums]:
    """Read every case once: the sums over its voxels that fitting needs."""
    found = []
    for case_id in track(together.case_ids, "reading members", console=console):
        reference = together.reference(case_id)
        with together.volumes(case_id, reference, together.out_of_fold(case_id)) as volumes:
            found.append(sums_of(case_id, volumes, reference))
    return found


def fit_all(
    together: RunsTogether, sums: Sequence[CaseSums], subsets: Sequence[Subset], seed: int
) -> Fitted:
    """Fit weights on everything, and cross-fitted for each of the subsets.

    Raises:
        ConfigError: All cases are of one patient.
    """
    try:
        groups = groups_of(together.patients, seed)
    except ValueError as error:
        raise ConfigError(
            "all cases are of one patient, so no weight can be fitted without it; "
            "cross-validate more patients"
        ) from error
    by_group = {
        subset: cross_fit([case.of(subset) for case in sums], groups)
        for subset in track(subsets, "fitting weights", console=console)
    }
    return Fitted(groups, fit_weights(sums), by_group)


def score_out_of_fold(
    together: RunsTogether, kind: Combination, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, Fitted]:
    """Every member and combination out of fold, and the mean Dice of smaller subsets.

    Returns:
        Case x region rows with ``model``, where :data:`ENSEMBLE` is the combination ``kind``;
        Dice of subsets of two or more, but not all, of the members, with ``subset``; the weights.
    """
    sums = add_up(together)
    everyone: Subset = tuple(range(len(together.works)))
    subsets = subsets_to_score(sums)
    wanted = [s for s in subsets if len(s) > 1] if kind == "fitted" else [everyone]
    fitted = fit_all(together, sums, wanted, seed)
    smaller = [s for s in subsets if 1 < len(s) < len(everyone)]
    scores = Scores()
    for case_id in track(together.case_ids, "scoring ensembles", console=console):
        reference = together.reference(case_id)
        for name, work in zip(together.names, together.works, strict=True):
            label_map = work.label_map(work.fold_of(case_id), case_id)
            masks = work.output.scheme.region_stack(label_map, together.regions)
            scores.rows += score_masks(together, case_id, name, masks, reference)
        with together.volumes(case_id, reference, together.out_of_fold(case_id)) as volumes:
            weights = fitted.for_case(case_id, everyone)
            scores.rows += score_combinations(together, case_id, kind, volumes, weights, reference)
            for subset in smaller:
                own = fitted.for_case(case_id, subset) if kind == "fitted" else None
                said = combine(volumes, kind, subset, own)
                truth = volumes.box.crop(reference).astype(bool, copy=False)
                scores.subset_rows += _dice_rows(together, case_id, subset, said, truth)
    return case_table(scores.rows), case_table(scores.subset_rows), fitted


def score_test(
    together: RunsTogether, case_ids: Sequence[str], kind: Combination, weights: Weights
) -> pd.DataFrame:
    """Each run's fold mean and every combination on cases that no run has seen."""
    rows: list[dict[str, Any]] = []
    models = [trained_run(work.source.run_id) for work in together.works]

    def members(case_id: str, reference: Masks) -> Iterator[Probabilities]:
        for name, work, networks in zip(together.names, together.works, models, strict=True):
            meta = work.store.meta(case_id)
            whole = fold_mean(networks, work.store.image(case_id), meta)
            masks = _own_masks(networks.output, whole, work.experiment.postprocess, together)
            rows.extend(score_masks(together, case_id, name, masks, reference))
            yield region_probabilities(networks.output, whole, together.regions)

    for case_id in track(case_ids, "test cases", console=console):
        reference = together.reference(case_id)
        with together.volumes(case_id, reference, members(case_id, reference)) as volumes:
            rows += score_combinations(together, case_id, kind, volumes, weights, reference)
    return case_table(rows)


def score_combinations(
    together: RunsTogether,
    case_id: str,
    kind: Combination,
    volumes: MemberVolumes,
    weights: Weights,
    reference: Masks,
) -> list[dict[str, Any]]:
    """Rows of every combination of all members; ``kind`` goes by :data:`ENSEMBLE`, and is last."""
    rows = []
    for other in sorted(COMBINATIONS, key=lambda name: name == kind):
        said = combine(volumes, other, weights=weights if other == "fitted" else None)
        masks = masks_of_regions(together, volumes.paste(said))
        name = ENSEMBLE if other == kind else f"{ENSEMBLE} ({other})"
        rows += score_masks(together, case_id, name, masks, reference)
    return rows


def masks_of_regions(together: RunsTogether, probabilities: Probabilities) -> Masks:
    """Nested masks after post-processing, of region probabilities ``(R, X, Y, Z)``."""
    return postprocess(probabilities > 0.5, probabilities, together.nesting, together.steps)


def score_masks(
    together: RunsTogether, case_id: str, model: str, masks: Masks, reference: Masks
) -> list[dict[str, Any]]:
    """Rows of one case, with the name of what predicted it."""
    spacing_mm = together.meta(case_id).spacing_mm
    config = together.works[0].experiment.evaluation
    scored = score_case(case_id, masks, reference, together.regions, spacing_mm, config)
    return [{"model": model, **row} for row in scored]


def _own_masks(
    output: Output, whole: Probabilities, steps: Sequence[Any], together: RunsTogether
) -> Masks:
    """As the run alone would write them."""
    return output.scheme.region_stack(label_map_of(output, whole, steps), together.regions)


def _dice_rows(
    together: RunsTogether, case_id: str, subset: Subset, said: Probabilities, truth: Masks
) -> list[dict[str, Any]]:
    """Dice by region within the box, outside which there is neither prediction nor reference."""
    policy = POLICIES[together.works[0].experiment.evaluation.empty]
    masks = masks_of_regions(together, said)
    return [
        {"subset": subset, "case": case_id, "region": region, "dice": dice(ours, true, policy)}
        for region, ours, true in zip(together.regions, masks, truth, strict=True)
    ]
