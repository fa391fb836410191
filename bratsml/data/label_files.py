"""Folders of label maps alone: predictions, or references without their images."""

from __future__ import annotations

import re
from pathlib import Path

from bratsml.data.cases import discover_cases
from bratsml.errors import DataError

_NAME = re.compile(r"^(?P<case>.+?)(?P<seg>[-_]seg)?\.nii(\.gz)?$", re.IGNORECASE)


def find_label_files(folder: Path) -> dict[str, Path]:
    """Case id to label map, in order of the ids.

    Taken are, in this order: the label maps of complete cases in any layout that
    :func:`bratsml.data.cases.discover_cases` knows; files named ``<case>-seg.nii.gz`` or
    ``<case>_seg.nii.gz`` at any depth; files ``<case>.nii.gz`` directly in the folder. ``.nii`` is
    as good as ``.nii.gz``.

    Raises:
        DataError: The folder is missing or holds no label map, or two of one case.
    """
    if not folder.is_dir():
        raise DataError(folder.name, "", "is not a folder", "check the name of the folder")
    named = [path for path in sorted(folder.rglob("*")) if _NAME.match(path.name)]
    labelled = [path for path in named if _parts(path)["seg"]]
    flat = [path for path in named if path.parent == folder]
    return _of_cases(folder) or _by_case(labelled or flat, folder)


def _of_cases(folder: Path) -> dict[str, Path]:
    try:
        found = discover_cases(folder, need_labels=False)
    except DataError:
        return {}
    return {case.id: case.label for case in found.cases if case.label is not None}


def _by_case(paths: list[Path], folder: Path) -> dict[str, Path]:
    if not paths:
        raise DataError(
            folder.name,
            "",
            "holds no label map",
            "expected names such as <case>.nii.gz or <case>-seg.nii.gz",
        )
    found: dict[str, Path] = {}
    for path in paths:
        case_id = _parts(path)["case"]
        if case_id in found:
            raise DataError(
                case_id, path.name, f"is there twice (also {found[case_id].name})", "keep one"
            )
        found[case_id] = path
    return dict(sorted(found.items()))


def _parts(path: Path) -> dict[str, str]:
    match = _NAME.match(path.name)
    return match.groupdict() if match else {}
