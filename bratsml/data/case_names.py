"""What a BraTS case id tells: the patient, the cohort, the meaning of the labels."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OLD_ID = re.compile(r"^BraTS(?P<year>1[789])_(?P<name>.+)_(?P<visit>\d+)$", re.IGNORECASE)
_ID_2020 = re.compile(r"^BraTS(?P<year>20|2020)_\w+_\d+$", re.IGNORECASE)
_ID_2021 = re.compile(r"^BraTS(?P<year>2021)_\d+$", re.IGNORECASE)
_NEW_ID = re.compile(
    r"^(?P<patient>BraTS-(?P<cohort>[A-Za-z]+(-RT)?)-\d+)(-(?P<visit>\d+))?$", re.IGNORECASE
)
_POST_TREATMENT_VISIT = 100  # the 2024 glioma set numbers its visits from 100
_OF_COHORT = {
    "GLI": "brats2023", "SSA": "brats2023", "MEN": "brats2023", "MET": "brats2023",
    "GOAT": "brats2023", "MEN-RT": "brats2024-men-rt",
}  # fmt: skip


@dataclass(frozen=True)
class CaseName:
    """What a case id tells: the patient, the cohort, the label scheme (or why it does not)."""

    patient: str
    cohort: str
    label_scheme: str
    doubt: str = ""


def parse_case_id(case_id: str) -> CaseName | None:
    """Read a BraTS case id; ``None`` when it follows none of the conventions."""
    if match := _OLD_ID.match(case_id):
        patient = case_id[: match.start("visit") - 1]
        return CaseName(patient, f"BraTS20{match['year']}", "brats2021")
    if _ID_2020.match(case_id):
        return CaseName(case_id, "BraTS2020", "brats2021")
    if _ID_2021.match(case_id):
        return CaseName(case_id, "BraTS2021", "brats2021")
    if match := _NEW_ID.match(case_id):
        cohort = match["cohort"].upper()
        if cohort == "PED":
            doubt = (
                "cohort PED means other tissues by the same values in 2023 (brats2023) and since "
                "2024 (brats2024-ped)"
            )
            return CaseName(match["patient"], cohort, "", doubt)
        scheme = _OF_COHORT.get(cohort, "")
        if cohort == "GLI" and int(match["visit"] or 0) >= _POST_TREATMENT_VISIT:
            scheme = "brats2024-gli"
        doubt = "" if scheme else f"the labels of cohort {cohort} are not known here"
        return CaseName(match["patient"], cohort, scheme, doubt)
    return None
