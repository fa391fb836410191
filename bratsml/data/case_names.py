"""What a BraTS case id tells: the patient, the cohort, the meaning of the labels."""

from __future__ import annotations

import re
from collections.abc import Iterable
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

LONGEST_ID_BYTES = 200
"""File names end at 255 bytes, and ours put something before or after a case id."""
_WORDS = """
anat ants atlas bet bet2 bias brain brainles brains captk case cases coreg coregistered corrected
data deepbrain derivatives fastsurfer file files fmriprep freesurfer fsl hd hdbet image images
imagestr imagests img imgs in input inputs label labels labelstr mask masked masks mni mni152 mri
mris n4 native nifti niftis nii normalised normalized original out output outputs patient prep
preproc preprocessed preprocessing processed raw reg registered resampled result results robex scan
scans segmentation segmentations series session skull skullstripped smriprep space spm spm12 sri24
strip stripped study subject synthstrip t1w tmp to volume volumes warped
"""  # of kinds of files, steps and tools: what a folder is called that does not tell the case
_GENERIC = frozenset(_WORDS.split())
_SEPARATORS = re.compile(r"[-_. ()]+")
_PARTS = re.compile(r"[_ ]+")
_MODALITY_WORDS = re.compile(r"t[12](n|c|w|f|ce|gd)?|flair|fla|segm?|\d+mm|v\d+")


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


def name_problem(name: str) -> tuple[str, str] | None:
    r"""Why a case cannot be known by that name, and what to do; ``None`` when it can.

    Example:
        >>> name_problem("BraTS-GLI-00000-000"), name_problem("case #1 (=2)")
        (None, None)
        >>> name_problem("two\nlines")[0]
        'its name holds characters that do not show'
    """
    if name.startswith("."):
        return "its name begins with a dot, as those of hidden files do", "rename it"
    if not name.isprintable():
        reason = "its name holds characters that do not show"
        return reason, r"rename its files and folder (shown like this: \n, \xa0, \u202e)"
    size = len(name.encode())
    if size > LONGEST_ID_BYTES:
        reason = f"its name has {size} bytes, at most {LONGEST_ID_BYTES} leave room for endings"
        return reason, "rename its files and its folder"
    return None


def is_generic(name: str) -> bool:
    """Whether a name says nothing about a case: that of a kind of file, a step or a tool.

    Example:
        >>> is_generic("hdbet_native-space"), is_generic("t1ce"), is_generic("UPENN-GBM-00001")
        (True, True, False)
    """
    words = [word for word in _SEPARATORS.split(name.lower()) if word]
    return all(word in _GENERIC or _MODALITY_WORDS.fullmatch(word) for word in words)


def shared_id(names: Iterable[str]) -> str:
    """The longest part with a digit that all the names have between underscores; or nothing.

    Example:
        >>> shared_id(["T1_AX_TCGA-FG-6692_10", "T2_AX_TCGA-FG-6692_11"])
        'TCGA-FG-6692'
    """
    parts = [{part for part in _PARTS.split(name) if re.search(r"\d", part)} for name in names]
    shared = set.intersection(*parts) if parts else set()
    return max(sorted(part for part in shared if not is_generic(part)), key=len, default="")
