"""The end of a study: its best points and the default, trained again with fresh seeds.

The best of many noisy scores is too good by chance. The candidates are therefore trained anew and
compared with the default patient by patient (:mod:`bratsml.evaluation.compare`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import yaml

from bratsml.config import Tree, merge
from bratsml.tuning.space import Space, WholeNumber
from bratsml.tuning.study import CASES, SharedStudy
from bratsml.workflows.verdict import compare_means, verdict_sentence

FRESH_SEED = 1000
"""Added to the experiment's seed, so that no rerun repeats a trial."""
DEFAULT = "default"


@dataclass(frozen=True)
class Candidate:
    """A point to be trained again."""

    name: str
    params: Mapping[str, Any]
    found_dice: float


@dataclass(frozen=True)
class Verdict:
    """What the reruns say.

    Attributes:
        best: The tuned candidate with the highest mean Dice over its reruns; ``None`` without any.
        is_better: Whether it beats the default by more than chance (95 % interval above 0).
        sentence: The verdict in words.
        table: One row per candidate.
    """

    best: Candidate | None
    is_better: bool
    sentence: str
    table: pd.DataFrame


def candidates(trials: Sequence[Any], default: Mapping[str, Any], most: int) -> list[Candidate]:
    """The default, then up to ``most`` of the best complete trials at other points.

    Args:
        trials: Optuna's.
    """
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    ranked = sorted(complete, key=lambda trial: -trial.values[0])
    known = next((t.values[0] for t in ranked if dict(t.params) == dict(default)), float("nan"))
    found = [Candidate(DEFAULT, dict(default), known)]
    for trial in ranked:
        if len(found) <= most and all(dict(trial.params) != dict(c.params) for c in found):
            found.append(Candidate(f"trial {trial.number}", dict(trial.params), trial.values[0]))
    return found


def rerun_points(found: Sequence[Candidate], seed: int, num_seeds: int) -> list[dict[str, Any]]:
    """Points of the reruns, seed by seed so that an early end leaves whole rounds."""
    return [
        {**candidate.params, "seed": (seed + FRESH_SEED + number) % 2**31}
        for number in range(num_seeds)
        for candidate in found
    ]


def decide(
    found: Sequence[Candidate],
    reruns: SharedStudy,
    seed: int,
    patients: Mapping[str, str] | None = None,
) -> Verdict:
    """Compare the candidates with the default, patient by patient.

    Args:
        reruns: The study of :func:`rerun_points`; a candidate without a complete rerun is left out.
        patients: Case to patient; ``None`` when every case is a patient of its own.
    """
    dice = {c.name: scores for c in found if (scores := _dice_of(c, reruns))}
    tuned = [c for c in found if c.name in dice and c.name != DEFAULT]
    if DEFAULT not in dice or not tuned:
        missing = "the default" if DEFAULT not in dice else "no tuned point"
        table = pd.DataFrame([_row(c, dice, {}) for c in found if c.name in dice])
        sentence = f"no verdict: {missing} came through the reruns"
        return Verdict(tuned[0] if tuned else None, False, sentence, table)
    against = {
        c.name: compare_means(
            dice[DEFAULT], dice[c.name], patients, seed=seed, num_pairs=len(tuned)
        )
        for c in tuned
    }
    rows = [_row(c, dice, against.get(c.name, {})) for c in found if c.name in dice]
    best = max(tuned, key=lambda c: float(np.mean(list(dice[c.name].values()))))
    compared = against[best.name]
    return Verdict(
        best,
        compared["verdict"] == "second is better",
        verdict_sentence("the default", best.name, compared),
        pd.DataFrame(rows),
    )


def tuned_yaml(base: str, changes: Tree, space_changes: Tree, comment: Sequence[str]) -> str:
    """An experiment file for the winner, with what is known about it as comments."""
    tree = {"base": base, **merge(changes, space_changes)}
    lines = [f"# {line}".rstrip() for line in comment]
    return "\n".join(lines) + "\n" + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def space_with_seed(space: Space) -> Space:
    """The space of the reruns."""
    return space.with_dimensions({"seed": WholeNumber(low=0, high=2**31 - 1)})


def _dice_of(candidate: Candidate, reruns: SharedStudy) -> dict[str, float]:
    """Mean Dice of every case over the candidate's complete reruns."""
    by_case: dict[str, list[float]] = {}
    for trial in reruns.trials():
        params = {name: value for name, value in trial.params.items() if name != "seed"}
        if trial.state.name == "COMPLETE" and params == dict(candidate.params):
            for case, dice in trial.user_attrs.get(CASES, {}).items():
                by_case.setdefault(case, []).append(dice)
    return {case: float(np.mean(dice)) for case, dice in by_case.items()}


def _row(
    candidate: Candidate, dice: Mapping[str, Mapping[str, float]], compared: Mapping[str, Any]
) -> dict[str, Any]:
    kept = ("difference", "low95", "high95", "p_corrected", "num_patients", "verdict")
    return {
        "candidate": candidate.name,
        **candidate.params,
        "search_dice": candidate.found_dice,
        "rerun_dice": float(np.mean(list(dice[candidate.name].values()))),
        **{name: compared.get(name) for name in kept},
    }
