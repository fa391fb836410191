"""The ways in which people lay out cases in folders, and everything in them that is left aside.

A *part* is what one folder holds of one case. Parts of one name that complete each other are one
case: so it does not matter whether there is a folder per case, one folder for all, a folder per
modality (``t1/CASE_t1.nii.gz``, or just ``t1/CASE.nii.gz``) or label maps in a folder of their own.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bratsml.data.case_names import is_generic, name_problem, parse_case_id, shared_id
from bratsml.errors import DataError
from bratsml.files import is_temporary, printable

LABEL = "label"
KINDS = {
    "t1": "t1n", "t1n": "t1n",
    "t1c": "t1c", "t1ce": "t1c", "t1gd": "t1c",
    "t2": "t2w", "t2w": "t2w",
    "t2f": "t2f", "flair": "t2f", "fla": "t2f",
    "seg": LABEL, "segm": LABEL,
}  # fmt: skip
_FOLDER_KINDS = KINDS | dict.fromkeys(
    ("label", "labels", "mask", "masks", "segmentation", "segmentations"), LABEL
)
_FILE = re.compile(
    rf"(?P<prefix>.+)[-_](?P<suffix>{'|'.join(sorted(KINDS, key=len, reverse=True))})"
    r"\.nii(\.gz)?",
    re.IGNORECASE | re.DOTALL,
)
_VOLUME = re.compile(r"(?P<stem>.+)\.nii(\.gz)?", re.IGNORECASE | re.DOTALL)
_NOT_DATA = re.compile(
    r"__MACOSX|__pycache__|\.(git|svn|hg|datalad|dvc|cache|ipynb_checkpoints|snapshots?|Trash.*"
    r"|Spotlight.*|fseventsd|AppleDouble|DS_Store|venv|tox|idea|vscode)"
)
MAX_FOLDERS = 100_000
"""More than any dataset has; a link to ``/`` is not followed for ever."""


@dataclass(frozen=True)
class Part:
    """What one folder holds of one case.

    Attributes:
        kinds: Modality or ``label`` to its files, usually one.
        told_by_folder: Whether the id is the folder's name, for want of one in the files' names.
        prefixes: What the file names have before their endings.
        bare: Whether only the folder tells what the files are.
    """

    id: str
    place: Path
    kinds: dict[str, list[Path]]
    told_by_folder: bool = False
    prefixes: tuple[str, ...] = ()
    bare: bool = False


@dataclass
class Found:
    """Parts by the id of their case, and what could not be looked at."""

    cases: dict[str, list[Part]] = field(default_factory=dict)
    problems: list[DataError] = field(default_factory=list)


def modality_suffix(path: Path) -> str:
    """How the file's name says what it is, in small letters; empty when it does not."""
    match = _FILE.fullmatch(path.name)
    return match["suffix"].lower() if match else ""


def find_parts(folder: Path) -> Found:
    """Everything below a folder that looks like a modality or label map of a case."""
    found = Found()
    parts: list[Part] = []
    for place, names in walk(folder, found.problems):
        parts += _named_parts(folder, place, names)
        parts += _bare_parts(folder, place, names)
    by_id: dict[str, list[Part]] = defaultdict(list)
    for part in _apart(parts):
        by_id[part.id].append(part)
    for case_id, group in by_id.items():
        chosen = _without_strays(group)
        problem = name_problem(case_id)
        if problem and chosen:
            found.problems.append(DataError(printable(case_id, 80), "", *problem))
        elif chosen:
            found.cases[case_id] = chosen
    return found


def walk(folder: Path, problems: list[DataError]) -> Iterator[tuple[Path, list[str]]]:
    """Folders with their files, links followed, each real folder once.

    What hides volumes by a dot before its name, and what cannot be read, becomes a problem.

    Raises:
        DataError: There are more folders than any dataset has.
    """
    seen: set[str] = set()

    def note(error: OSError) -> None:
        problems.append(_unreadable(error))

    for place, subfolders, names in os.walk(folder, followlinks=True, onerror=note):
        real = os.path.realpath(place)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        if len(seen) > MAX_FOLDERS:
            raise DataError(
                printable(folder.name),
                "",
                f"holds more than {MAX_FOLDERS:,} folders",
                "name the folder of the cases; perhaps a link leads out of it",
            )
        hidden = [name for name in (*subfolders, *names) if _hides(Path(place), name)]
        problems += [
            DataError(printable(name, 80), "", *(name_problem(name) or ("is hidden", "rename it")))
            for name in sorted(hidden)
        ]
        subfolders[:] = sorted(name for name in subfolders if _is_visible(name))
        yield Path(place), sorted(name for name in names if _is_visible(name))


def merged(parts: Iterable[Part]) -> dict[str, list[Path]]:
    """Kind to all its files over the parts of a case."""
    kinds: dict[str, list[Path]] = defaultdict(list)
    for part in parts:
        for kind, paths in part.kinds.items():
            kinds[kind] += paths
    return dict(kinds)


def copies(parts: Iterable[Part]) -> int:
    """In how many places the same kind of file lies."""
    counts: dict[str, int] = defaultdict(int)
    for part in parts:
        for kind in part.kinds:
            counts[kind] += 1
    return max(counts.values(), default=0)


def _named_parts(root: Path, place: Path, names: list[str]) -> Iterator[Part]:
    """Parts whose files tell what they are by the end of their names.

    Files with different prefixes are one case when no modality repeats and at most one prefix is a
    BraTS id: so BraTS20_Training_355 gets its label ``W39_1998.09.19_Segm.nii``.
    """
    groups: dict[str, dict[str, list[Path]]] = {}
    for name in names:
        if match := _FILE.fullmatch(name):
            kind = KINDS[match["suffix"].lower()]
            groups.setdefault(match["prefix"], {}).setdefault(kind, []).append(place / name)
    known = [prefix for prefix in groups if parse_case_id(prefix)]
    kinds = [kind for group in groups.values() for kind in group]
    if not groups:
        return
    if len(known) > 1 or len(kinds) > len(set(kinds)):
        for prefix, group in groups.items():
            yield Part(prefix, place, group, prefixes=(prefix,))
        return
    case_id, told_by_folder = (known[0], False) if known else _id_of(root, place, tuple(groups))
    together = {kind: paths for group in groups.values() for kind, paths in group.items()}
    yield Part(case_id, place, together, told_by_folder, tuple(groups))


def _bare_parts(root: Path, place: Path, names: list[str]) -> Iterator[Part]:
    """Parts of a folder that is called like a modality; what its files are only it tells."""
    kind = _FOLDER_KINDS.get(place.name.lower())
    if kind is None:
        return
    for name in names:
        match = _VOLUME.fullmatch(name)
        if match and not _FILE.fullmatch(name):
            case_id, _ = _id_of(root, place, (match["stem"],))
            yield Part(case_id, place, {kind: [place / name]}, prefixes=(match["stem"],), bare=True)


def _id_of(root: Path, place: Path, prefixes: tuple[str, ...]) -> tuple[str, bool]:
    """The id of a case that has a folder to itself, and whether a folder told it.

    That is the folder's name, unless this is one that any case could have (``hdbet_native-space``):
    then what the file names share, then the nearest folder above with a name of its own.
    """
    folders = [_name_of(place)]
    while place != root and place.parent != place:
        place = place.parent
        folders.append(_name_of(place))
    if is_generic(folders[0]) and (carried := _carried_id(prefixes)):
        return carried, False
    own = next((name for name in folders if not is_generic(name)), folders[0])
    return own.lstrip(".") or "case", True


def _name_of(place: Path) -> str:
    return place.name if place.name not in ("", "..") else Path(os.path.realpath(place)).name


def _carried_id(prefixes: tuple[str, ...]) -> str:
    """The id within file names, or nothing."""
    if len(prefixes) == 1:
        return "" if is_generic(prefixes[0]) else prefixes[0]
    return shared_id(prefixes)


def _apart(parts: list[Part]) -> list[Part]:
    """The parts, those named alike after folders named by what their files tell, if that differs.

    So the folders of a tool that are called the same in every case do not make copies of it.
    """
    by_id: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        by_id[part.id].append(part)
    result: list[Part] = []
    for group in by_id.values():
        ids = [_carried_id(part.prefixes) for part in group]
        alike = all(part.told_by_folder for part in group) and copies(group) > 1
        if alike and all(ids) and len(set(ids)) == len(ids):
            group = [
                Part(case_id, part.place, part.kinds, prefixes=part.prefixes)
                for case_id, part in zip(ids, group, strict=True)
            ]
        result += group
    return result


def _without_strays(parts: list[Part]) -> list[Part]:
    """The parts of a case without bare ones that are no case by themselves.

    A folder ``seg`` may hold anything; it counts where it completes a case, or where folders of
    several modalities hold files of that name.
    """
    named = [part for part in parts if not part.bare]
    bare = [part for part in parts if part.bare]
    if named:
        have = merged(named).keys()
        return named + [part for part in bare if not have & part.kinds.keys()]
    return bare if len(merged(bare).keys() - {LABEL}) > 1 else []


def _is_visible(name: str) -> bool:
    """Neither hidden nor left by an archiver or a tool."""
    return not name.startswith(".") and not _NOT_DATA.fullmatch(name)


def _hides(place: Path, name: str) -> bool:
    """Whether a hidden file or folder is, or holds, what would be a volume of a case."""
    if not name.startswith(".") or name.startswith("._"):  # macOS's notes on the file of that name
        return False
    if is_temporary(name) or _NOT_DATA.fullmatch(name):
        return False
    if _FILE.fullmatch(name):
        return True
    path = place / name
    if not os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where this says no
        return False
    below = (files for _, _, files in os.walk(path))
    return any(_FILE.fullmatch(file) for files in below for file in files)


def _unreadable(error: OSError) -> DataError:
    name = printable(os.path.basename(os.fsdecode(error.filename or "")), 80)  # noqa: PTH119
    reason = f"its folder cannot be read ({error.strerror or 'input error'})"
    return DataError(name or "data", "", reason, "check its permissions")
