"""Finding the cases in a folder: which file is which modality, which case, which patient.

Understood are the names of BraTS 2018-2021 (``<case>_t1ce.nii.gz``), BraTS 2023-2025
(``<case>-t1c.nii.gz``) and the Medical Segmentation Decathlon (4-D files under ``imagesTr``), each
as ``.nii`` or ``.nii.gz``, one folder per case, per modality or for all, at any depth
(:mod:`bratsml.data.layouts`). Files that are neither a modality nor a label map are ignored; a case
that is hidden, unreadable or has a name that cannot be printed is a problem like any other.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bratsml.data.case_names import CaseName, name_problem, parse_case_id
from bratsml.data.layouts import (
    LABEL,
    Part,
    copies,
    find_parts,
    merged,
    modality_suffix,
    walk,
)
from bratsml.errors import ConfigError, DataError
from bratsml.files import printable
from bratsml.labels import LabelScheme, get_scheme

__all__ = ["MODALITIES", "CaseFiles", "Discovery", "discover_cases", "find_case", "parse_case_id"]

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
"""Order of the channels in every array of the package."""
DECATHLON_CHANNELS = {"t2f": 0, "t1n": 1, "t1c": 2, "t2w": 3}
"""Where the Decathlon's 4-D file (FLAIR, T1w, T1gd, T2w) holds each modality."""

_DECATHLON_FILE = re.compile(r"(?P<id>[^.].*)\.nii(\.gz)?", re.DOTALL)


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes:
        id: Case id, e.g. ``BraTS-GLI-00000-000``.
        patient: What visits of one patient share, e.g. ``BraTS-GLI-00000``.
        cohort: ``BraTS2021``, ``GLI``, ``decathlon``, ... or ``unknown``.
        layout: ``brats2021``, ``brats2023`` (by the file names) or ``decathlon``.
        images: File of each modality; in the Decathlon the same 4-D file four times.
        label: File of the label map, or ``None``.
    """

    id: str
    patient: str
    cohort: str
    layout: str
    images: Mapping[str, Path]
    label: Path | None

    @property
    def files(self) -> dict[str, Path]:
        """Each file once, under the first thing it is used for."""
        named = {**self.images, **({LABEL: self.label} if self.label else {})}
        seen: dict[Path, str] = {}
        for use, path in named.items():
            seen.setdefault(path, use)
        return {use: path for path, use in seen.items()}


@dataclass(frozen=True)
class Discovery:
    """What a folder holds.

    Attributes:
        cases: Complete cases in order of their ids.
        problems: One error per case that lacks something.
        label_scheme: Scheme that the names imply; empty when they leave it open.
        scheme_doubt: Why ``label_scheme`` is empty.
    """

    cases: tuple[CaseFiles, ...]
    problems: tuple[DataError, ...]
    label_scheme: str
    scheme_doubt: str = ""

    def scheme(self, declared: str | None = None) -> LabelScheme:
        """The declared label scheme, or the implied one when none (or ``auto``) is declared.

        Raises:
            ConfigError: Unknown name, or none declared and the names do not tell.
        """
        name = declared if declared and declared != "auto" else self.label_scheme
        if not name:
            raise ConfigError(f"{self.scheme_doubt}; declare the label scheme")
        return get_scheme(name)


def discover_cases(folder: Path, *, need_labels: bool) -> Discovery:
    """Find every case under ``folder``.

    Args:
        need_labels: A case without label map is a problem; the Decathlon's ``imagesTs``, which
            have none by design, are then left out.

    Raises:
        DataError: The folder is missing or holds no case at all.
    """
    if not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises where this says no
        raise DataError(
            printable(folder.name, 80), "", "is not a folder", "check the name of the data folder"
        )
    problems: list[DataError] = []
    decathlon = _decathlon_root(folder)
    found = list(
        _decathlon_cases(decathlon, need_labels, problems)
        if decathlon
        else _brats_cases(folder, problems)
    )
    if not found and not problems:
        raise DataError(
            printable(folder.name, 80),
            "",
            "holds no case",
            "expected names such as <case>_t1ce.nii.gz, <case>-t1c.nii.gz, imagesTr/<case>.nii.gz",
        )
    cases: list[CaseFiles] = []
    for case, problem in sorted(found, key=lambda entry: entry[0].id):
        problem = problem or _problem_of(case, need_labels)
        if problem is None:
            cases.append(case)
        else:
            problems.append(problem)
    unique = {(problem.case, problem.file): problem for problem in problems}
    ordered = sorted(unique.values(), key=lambda problem: problem.case)
    scheme, doubt = _common_scheme(case for case, _ in found)
    return Discovery(tuple(cases), tuple(ordered), scheme, doubt)


def find_case(folder: Path, case_id: str = "") -> CaseFiles:
    """The one case in ``folder``, or the one of that id; label maps are not needed.

    Raises:
        DataError: No such case, several of them, or the case lacks a modality.
    """
    found = discover_cases(folder, need_labels=False)
    cases = [case for case in found.cases if case_id in ("", case.id)]
    problems = [problem for problem in found.problems if case_id in ("", problem.case)]
    if problems:
        raise problems[0]
    if len(cases) != 1:
        raise DataError(
            case_id or folder.name, "", f"{len(cases)} cases found", "name exactly one case"
        )
    return cases[0]


def _problem_of(case: CaseFiles, need_labels: bool) -> DataError | None:
    missing = [modality for modality in MODALITIES if modality not in case.images]
    if missing:
        plural = "modality" if len(missing) == 1 else "modalities"
        return DataError(
            case.id,
            "",
            f"missing {plural} {', '.join(missing)}",
            "add the file or leave the case out",
        )
    if need_labels and case.label is None:
        return DataError(
            case.id,
            "",
            "missing label map",
            "add the label file, or preprocess for predict alone with --no-labels",
        )
    return None


def _brats_cases(
    folder: Path, problems: list[DataError]
) -> Iterator[tuple[CaseFiles, DataError | None]]:
    found = find_parts(folder)
    problems += found.problems
    for case_id, parts in found.cases.items():
        yield _case_of(case_id, merged(parts), parts)


def _case_of(
    case_id: str, kinds: dict[str, list[Path]], parts: list[Part]
) -> tuple[CaseFiles, DataError | None]:
    name = parse_case_id(case_id) or CaseName(case_id, "unknown", "")
    paths = {kind: files[0] for kind, files in kinds.items()}
    label = paths.pop(LABEL, None)
    images = {modality: paths[modality] for modality in MODALITIES if modality in paths}
    new = any(modality_suffix(path) in ("t1n", "t2w", "t2f") for path in images.values())
    layout = "brats2023" if new or case_id.upper().startswith("BRATS-") else "brats2021"
    case = CaseFiles(case_id, name.patient, name.cohort, layout, images, label)
    if (places := copies(parts)) > 1:
        return case, DataError(
            case_id,
            "",
            f"appears in {places} places",
            "keep one of them if they are copies, otherwise give each case a name of its own",
        )
    for kind, files in kinds.items():
        if len(files) > 1:
            reason = f"second file for {kind} beside {printable(files[0].name)}"
            return case, DataError(case_id, printable(files[1].name), reason, "keep one of them")
    return case, None


def _decathlon_root(folder: Path) -> Path | None:
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # the walk over the folder reports it
        return None
    for candidate in (folder, *entries):
        images = [candidate / name for name in ("imagesTr", "imagesTs")]
        if any(os.path.isdir(path) for path in images):  # noqa: PTH112 - as above
            return candidate
    return None


def _decathlon_cases(
    root: Path, need_labels: bool, problems: list[DataError]
) -> Iterator[tuple[CaseFiles, DataError | None]]:
    for images in ("imagesTr",) if need_labels else ("imagesTr", "imagesTs"):
        labels = root / images.replace("images", "labels")
        for place, names in walk(root / images, problems):
            for name in names if place == root / images else ():
                match = _DECATHLON_FILE.fullmatch(name)
                if not match:
                    continue
                case_id = match["id"]
                if problem := name_problem(case_id):
                    problems.append(DataError(printable(case_id, 80), "", *problem))
                    continue
                options = [labels / f"{case_id}{ending}" for ending in (".nii.gz", ".nii")]
                label = next((option for option in options if option.is_file()), None)
                files = dict.fromkeys(MODALITIES, place / name)
                yield CaseFiles(case_id, case_id, "decathlon", "decathlon", files, label), None


def _common_scheme(cases: Iterable[CaseFiles]) -> tuple[str, str]:
    """Scheme shared by the cases, or an empty name and the reason for the doubt."""
    schemes: set[str] = set()
    for case in cases:
        name = parse_case_id(case.id)
        if case.layout == "decathlon":
            schemes.add("decathlon")
        elif name is None:
            schemes.add(case.layout)
        elif name.doubt:
            return "", name.doubt
        else:
            schemes.add(name.label_scheme)
    if schemes == {"brats2023", "brats2024-gli"}:  # the same tissues, and the cavity on top
        return "brats2024-gli", ""
    if len(schemes) > 1:
        return "", f"the case names imply several label schemes ({', '.join(sorted(schemes))})"
    return next(iter(schemes), ""), ""
