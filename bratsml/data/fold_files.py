"""Reading fixed fold files in the forms that the field passes around.

- ours: ``{"folds": [[id, ...], ...], "test": [id, ...], "training_only": [id, ...]}``
- nnU-Net: ``[{"train": [id, ...], "val": [id, ...]}, ...]``
- MONAI and MedNeXt: ``{"training": [{"fold": 0, "label": "path/case-seg.nii.gz"}, ...]}``, perhaps
  with ``"testing"``; the case may also be named by ``id`` or ``image``
- a plain table: ``{id: fold, ...}``

Fold -1 is only ever trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from bratsml.config import as_typed
from bratsml.data.split import Split, listed, read_json
from bratsml.errors import ConfigError

TRAINING_ONLY = -1
_CASE_KEYS = ("id", "case", "case_id", "label", "image")
_ID_ENDS = "._-"  # a case id within a file name ends at one of these, e.g. case_0001-t1c.nii.gz


def read_fold_file(path: Path, known_ids: Iterable[str]) -> Split:
    """The split that a fold file describes; see the module for the forms.

    The test split is what the file names as such, or empty.

    Args:
        known_ids: The dataset's case ids, to recognise them in paths.

    Raises:
        ConfigError: Not one of the forms, or nnU-Net's lists are no cross-validation.
    """
    content = read_json(path)
    if isinstance(content, list):
        return _from_train_val_lists(content, path.name)
    if isinstance(content, dict) and "folds" in content:
        return Split.from_tree(content, path.name)
    if isinstance(content, dict) and isinstance(content.get("training"), list):
        return _from_datalist(content, path.name, set(known_ids))
    if isinstance(content, dict) and content and all(map(_is_fold, content.values())):
        return _from_assignment(content, (), path.name)
    raise ConfigError(
        f"{path.name} is not a fold file that can be read; give "
        '{"folds": [[id, ...], ...]}, a list of {"train", "val"}, or {"training": [{"fold", ...}]}'
    )


def _from_train_val_lists(content: Sequence[Any], source: str) -> Split:
    """nnU-Net's form; what is trained on but never validated on becomes training only."""
    pairs: list[tuple[set[str], set[str]]] = []
    for number, entry in enumerate(content):
        train, val = (entry.get("train"), entry.get("val")) if isinstance(entry, dict) else (0, 0)
        if not _is_id_list(train) or not _is_id_list(val):
            raise ConfigError(f"entry {number} of {source} needs lists of case ids train and val")
        pairs.append((set(train), set(val)))
    if not pairs:
        raise ConfigError(f"{source} holds no folds; give at least one train and val list")
    everyone = set().union(*(train | val for train, val in pairs))
    validated = set().union(*(val for _, val in pairs))
    for number, (train, val) in enumerate(pairs):
        both, left_out = sorted(train & val), sorted(everyone - train - val)
        if both:
            raise ConfigError(
                f"fold {number} of {source} trains on {listed(both)} and validates on the same; "
                "remove them from one of the lists"
            )
        if left_out:
            raise ConfigError(
                f"fold {number} of {source} neither trains nor validates on {listed(left_out)}; "
                "every fold must train on all cases outside it"
            )
    return Split(
        test=(),
        folds=tuple(tuple(sorted(val)) for _, val in pairs),
        training_only=tuple(sorted(everyone - validated)),
    )


def _from_datalist(content: Mapping[str, Any], source: str, known_ids: set[str]) -> Split:
    """MONAI's data list, where each entry names its files and its fold."""
    fold_of: dict[str, Any] = {}
    for number, entry in enumerate(content["training"]):
        if not isinstance(entry, dict) or not _is_fold(entry.get("fold")):
            raise ConfigError(
                f"entry {number} of 'training' in {source} has no fold; give a whole number, "
                "-1 for training only"
            )
        case_id = _case_of(entry, known_ids, f"entry {number} of 'training' in {source}")
        if case_id in fold_of:
            raise ConfigError(f"{source} names {case_id} twice; keep one of the entries")
        fold_of[case_id] = entry["fold"]
    testing = content.get("testing", content.get("test", []))
    if not isinstance(testing, list):
        raise ConfigError(f"'testing' in {source} must be a list of cases")
    test = tuple(
        _case_of(entry, known_ids, f"entry {number} of 'testing' in {source}")
        for number, entry in enumerate(testing)
    )
    return _from_assignment(fold_of, test, source)


def _from_assignment(fold_of: Mapping[str, int], test: tuple[str, ...], source: str) -> Split:
    numbers = sorted(set(fold_of.values()) - {TRAINING_ONLY})
    if not numbers or numbers != list(range(len(numbers))):
        found = listed([as_typed(number) for number in numbers]) or "none"
        raise ConfigError(
            f"folds of {source} must count 0, 1, 2, ... (and -1: training only), found {found}"
        )
    groups = {
        number: tuple(sorted(case_id for case_id, fold in fold_of.items() if fold == number))
        for number in (TRAINING_ONLY, *numbers)
    }
    return Split(
        test=test,
        folds=tuple(groups[number] for number in numbers),
        training_only=groups[TRAINING_ONLY],
    )


def _case_of(entry: Any, known_ids: set[str], where: str) -> str:
    """The case that an entry means: an id as such, or the known id its file names carry."""
    named = entry if isinstance(entry, str) else None
    if isinstance(entry, dict):
        named = next((entry[key] for key in _CASE_KEYS if entry.get(key)), None)
    if isinstance(named, list) and named:
        named = named[0]
    if not isinstance(named, str):
        raise ConfigError(f"{where} does not name its case; give id, label or image")
    if named in known_ids:
        return named
    for part in reversed(re.split(r"[/\\]", named)):
        ends = [i for i, letter in enumerate(part) if letter in _ID_ENDS] + [len(part)]
        for end in reversed(ends):
            if part[:end] in known_ids:
                return part[:end]
    return re.split(r"[/\\]", named)[-1]  # unknown: the check against the dataset names it


def _is_fold(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= TRAINING_ONLY


def _is_id_list(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
