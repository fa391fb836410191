"""Finding the cases in a folder: which file is which modality, which case, which patient.

Understood are the names of BraTS 2018-2021 (``<case>_t1ce.nii.gz``), BraTS 2023-2025
(``<case>-t1c.nii.gz``) and the Medical Segmentation Decathlon (4-D files under ``imagesTr``), each
as ``.nii`` or ``.nii.gz``, one folder per case or many cases in one folder, at any depth. Hidden
files and files that are neither a modality nor a label map are ignored.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bratsml.data.case_names import CaseName, parse_case_id
from bratsml.errors import ConfigError, DataError
from bratsml.labels import LabelScheme, get_scheme

__all__ = ["MODALITIES", "CaseFiles", "Discovery", "discover_cases", "find_case", "parse_case_id"]

MODALITIES = ("t1n", "t1c", "t2w", "t2f")
"""Order of the channels in every array of the package."""
DECATHLON_CHANNELS = {"t2f": 0, "t1n": 1, "t1c": 2, "t2w": 3}
"""Where the Decathlon's 4-D file (FLAIR, T1w, T1gd, T2w) holds each modality."""

_LABEL = "label"
_KINDS = {
    "t1": "t1n", "t1n": "t1n",
    "t1c": "t1c", "t1ce": "t1c", "t1gd": "t1c",
    "t2": "t2w", "t2w": "t2w",
    "t2f": "t2f", "flair": "t2f", "fla": "t2f",
    "seg": _LABEL, "segm": _LABEL,
}  # fmt: skip
_FILE = re.compile(
    rf"^(?P<prefix>.+)[-_](?P<suffix>{'|'.join(sorted(_KINDS, key=len, reverse=True))})"
    r"\.nii(\.gz)?$",
    re.IGNORECASE,
)
_DECATHLON_FILE = re.compile(r"^(?P<id>[^.].*)\.nii(\.gz)?$")


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
        named = {**self.images, **({_LABEL: self.label} if self.label else {})}
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
    if not folder.is_dir():
        raise DataError(folder.name, "", "is not a folder", "check the name of the data folder")
    decathlon = _decathlon_root(folder)
    found = list(_decathlon_cases(decathlon, need_labels) if decathlon else _brats_cases(folder))
    if not found:
        raise DataError(
            folder.name,
            "",
            "holds no case",
            "expected names such as <case>_t1ce.nii.gz, <case>-t1c.nii.gz, imagesTr/<case>.nii.gz",
        )
    cases: list[CaseFiles] = []
    problems: list[DataError] = []
    copies = Counter(case.id for case, _ in found)
    for case, problem in sorted(found, key=lambda entry: entry[0].id):
        problem = problem or _problem_of(case, need_labels, copies[case.id])
        if problem is None:
            cases.append(case)
        else:
            problems.append(problem)
    unique = {problem.case: problem for problem in problems}
    scheme, doubt = _common_scheme(case for case, _ in found)
    return Discovery(tuple(cases), tuple(unique.values()), scheme, doubt)


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


def _problem_of(case: CaseFiles, need_labels: bool, copies: int) -> DataError | None:
    if copies > 1:
        return DataError(case.id, "", f"appears in {copies} places", "keep one of the copies")
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
            case.id, "", "missing label map", "add the label file, or ask for no labels"
        )
    return None


def _brats_cases(folder: Path) -> Iterator[tuple[CaseFiles, DataError | None]]:
    for place, names in _walk(folder):
        groups: dict[str, dict[str, list[str]]] = {}
        for name in names:
            if match := _FILE.match(name):
                kind = _KINDS[match["suffix"].lower()]
                groups.setdefault(match["prefix"], {}).setdefault(kind, []).append(name)
        for case_id, kinds in _case_groups(place.resolve().name, groups):
            yield _case_of(place, case_id, kinds)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders with their visible files, links followed, each real folder once."""
    seen: set[str] = set()
    for place, subfolders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if _is_visible(name))
        yield Path(place), sorted(name for name in names if _is_visible(name))


def _is_visible(name: str) -> bool:
    """Neither hidden, nor left by an archiver, nor unfit to be printed."""
    return not name.startswith((".", "__")) and name.isprintable()


def _case_groups(
    folder_name: str, groups: dict[str, dict[str, list[str]]]
) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Case id and files of each case in one folder.

    Files with different prefixes are one case when no modality repeats and at most one prefix is a
    BraTS id: so BraTS20_Training_355 gets its label ``W39_1998.09.19_Segm.nii``.
    """
    known = [prefix for prefix in groups if parse_case_id(prefix)]
    kinds = [kind for group in groups.values() for kind in group]
    if len(known) <= 1 and len(kinds) == len(set(kinds)) and groups:
        case_id = known[0] if known else folder_name.lstrip(".") or "case"
        yield case_id, {kind: names for group in groups.values() for kind, names in group.items()}
    else:
        yield from groups.items()


def _case_of(
    place: Path, case_id: str, kinds: dict[str, list[str]]
) -> tuple[CaseFiles, DataError | None]:
    name = parse_case_id(case_id) or CaseName(case_id, "unknown", "")
    paths = {kind: place / names[0] for kind, names in kinds.items()}
    label = paths.pop(_LABEL, None)
    images = {modality: paths[modality] for modality in MODALITIES if modality in paths}
    new = any(_suffix(path) in ("t1n", "t2w", "t2f") for path in images.values())
    layout = "brats2023" if new or case_id.upper().startswith("BRATS-") else "brats2021"
    case = CaseFiles(case_id, name.patient, name.cohort, layout, images, label)
    for kind, names in kinds.items():
        if len(names) > 1:
            return case, DataError(
                case_id, names[1], f"second file for {kind} beside {names[0]}", "keep one of them"
            )
    return case, None


def _suffix(path: Path) -> str:
    match = _FILE.match(path.name)
    return match["suffix"].lower() if match else ""


def _decathlon_root(folder: Path) -> Path | None:
    for candidate in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        if (candidate / "imagesTr").is_dir() or (candidate / "imagesTs").is_dir():
            return candidate
    return None


def _decathlon_cases(root: Path, need_labels: bool) -> Iterator[tuple[CaseFiles, DataError | None]]:
    for images in ("imagesTr",) if need_labels else ("imagesTr", "imagesTs"):
        labels = root / images.replace("images", "labels")
        folder = root / images
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = _DECATHLON_FILE.match(path.name)
            if not match or not _is_visible(path.name):
                continue
            options = [labels / f"{match['id']}{ending}" for ending in (".nii.gz", ".nii")]
            label = next((option for option in options if option.is_file()), None)
            image_files = dict.fromkeys(MODALITIES, path)
            case_id = match["id"]
            yield CaseFiles(case_id, case_id, "decathlon", "decathlon", image_files, label), None


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
