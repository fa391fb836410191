"""Dividing patients so that every group sees each cohort, tumours with and without ET, all sizes.

All visits of a patient go together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

FEWEST_PATIENTS_FOR_TEST = 4


class CaseLike(Protocol):
    """What a split needs to know of a case; ``volume_ml`` may lack regions or be empty."""

    @property
    def id(self) -> str: ...  # noqa: D102

    @property
    def patient(self) -> str: ...  # noqa: D102

    @property
    def cohort(self) -> str: ...  # noqa: D102

    @property
    def volume_ml(self) -> Mapping[str, float]: ...  # noqa: D102


@dataclass(frozen=True)
class Patient:
    """One patient's cases and what stratification looks at."""

    name: str
    case_ids: tuple[str, ...]
    stratum: tuple[str, bool]
    volume_ml: float


def ordered_patients(cases: Sequence[CaseLike]) -> list[Patient]:
    """Patients by cohort, presence of ET (in any visit) and largest whole-tumour volume."""
    visits: dict[str, list[CaseLike]] = {}
    for case in sorted(cases, key=lambda case: case.id):
        visits.setdefault(case.patient, []).append(case)
    patients = [
        Patient(
            name=name,
            case_ids=tuple(case.id for case in group),
            stratum=(group[0].cohort, any(case.volume_ml.get("ET", 0.0) > 0 for case in group)),
            volume_ml=max(_tumour_ml(case.volume_ml) for case in group),
        )
        for name, group in visits.items()
    ]
    return sorted(patients, key=lambda p: (p.stratum, p.volume_ml, p.name))


def _tumour_ml(volume_ml: Mapping[str, float]) -> float:
    """Whole-tumour volume; where a scheme has no WT, that of the largest region; 0 unlabelled."""
    return volume_ml.get("WT", max(volume_ml.values(), default=0.0))


def draw_test(
    patients: Sequence[Patient], fraction: float, rng: np.random.Generator
) -> list[Patient]:
    """One patient from each of equal stretches of the ordered patients.

    Returns none when there are fewer than :data:`FEWEST_PATIENTS_FOR_TEST` or the fraction is 0.
    """
    if fraction == 0 or len(patients) < FEWEST_PATIENTS_FOR_TEST:
        return []
    count = max(1, int(len(patients) * fraction + 0.5))
    bounds = [i * len(patients) // count for i in range(count + 1)]
    return [patients[int(rng.integers(start, stop))] for start, stop in pairwise(bounds)]


def deal(
    patients: Sequence[Patient], num_folds: int, rng: np.random.Generator
) -> list[list[Patient]]:
    """Deal ordered patients out in rounds of one per fold.

    Within a round a patient goes to the fold that has fewest of its stratum, then fewest cases;
    chance decides between equals.
    """
    folds: list[list[Patient]] = [[] for _ in range(num_folds)]
    for first in range(0, len(patients), num_folds):
        free = [int(fold) for fold in rng.permutation(num_folds)]
        for patient in patients[first : first + num_folds]:
            chosen = min(free, key=lambda fold: _burden(folds[fold], patient.stratum))
            folds[chosen].append(patient)
            free.remove(chosen)
    return folds


def _burden(fold: Sequence[Patient], stratum: tuple[str, bool]) -> tuple[int, int]:
    alike = sum(patient.stratum == stratum for patient in fold)
    return alike, sum(len(patient.case_ids) for patient in fold)


def ids_of(patients: Sequence[Patient]) -> tuple[str, ...]:
    """Ids, sorted, of all cases of the patients."""
    return tuple(sorted(case_id for patient in patients for case_id in patient.case_ids))
