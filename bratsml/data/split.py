"""A split: which cases are trained on, validated on and kept away, and whether it leaks.

The test cases are part of it, but neither :meth:`Split.training` nor :meth:`Split.validation` ever
returns one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from bratsml import files
from bratsml.config import Tree, as_typed
from bratsml.data.stratify import CaseLike
from bratsml.errors import ConfigError
from bratsml.files import sha256_of_json, write_json

SPLIT_FORMAT = "bratsml-split-1"
NAMED_AT_MOST = 5
"""Cases or patients that one message lists before it only counts the rest."""


@dataclass(frozen=True)
class Split:
    """Case ids by what they are used for; each case appears once.

    Attributes:
        test: Held out; read by the final evaluation alone.
        folds: Each fold is validated on by the model trained on the others.
        training_only: Trained on in every fold and never validated on ("fold -1").
    """

    test: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    training_only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        counts = Counter(case_id for _, group in self.groups() for case_id in group)
        twice = sorted(case_id for case_id, count in counts.items() if count > 1)
        if twice:
            raise ConfigError(
                f"split names {listed(twice)} more than once; "
                "keep each case in one fold, or in training_only or test"
            )

    def groups(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Every group with its name: ``test``, ``training only``, ``fold 0``, ``fold 1``, ..."""
        yield "test", self.test
        yield "training only", self.training_only
        for number, fold in enumerate(self.folds):
            yield f"fold {number}", fold

    def training(self, fold: int) -> tuple[str, ...]:
        """Ids, sorted, of what is trained on while ``fold`` is validated on."""
        self._require(fold)
        others = [group for number, group in enumerate(self.folds) if number != fold]
        return tuple(
            sorted(case_id for group in (*others, self.training_only) for case_id in group)
        )

    def validation(self, fold: int) -> tuple[str, ...]:
        """Ids, sorted, of the fold's own cases."""
        self._require(fold)
        return tuple(sorted(self.folds[fold]))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the division, whatever the order of cases within a group."""
        return sha256_of_json(
            {
                "test": sorted(self.test),
                "folds": [sorted(fold) for fold in self.folds],
                "training_only": sorted(self.training_only),
            }
        )

    def to_tree(self) -> Tree:
        """Plain data that :meth:`from_tree` reads back; it carries the hash."""
        return {
            "format": SPLIT_FORMAT,
            "test": list(self.test),
            "folds": [list(fold) for fold in self.folds],
            "training_only": list(self.training_only),
            "hash": self.hash,
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any], source: str = "split") -> Split:
        """Read what :meth:`to_tree` gave; without a hash any such tree written by hand will do.

        Args:
            source: Named in messages, e.g. the file.

        Raises:
            ConfigError: Unknown format or key, not lists of case ids, or changed since the hash
                was taken.
        """
        unknown = sorted(set(tree) - {"format", "test", "folds", "training_only", "hash"})
        if tree.get("format", SPLIT_FORMAT) != SPLIT_FORMAT or unknown:
            found = (
                f"the key {as_typed(unknown[0])}"
                if unknown
                else f"format {as_typed(tree['format'])}"
            )
            raise ConfigError(f"{source} holds {found}; expected folds, test and training_only")
        folds = tree.get("folds")
        if not isinstance(folds, list) or not folds:
            raise ConfigError(f"{source} has no folds; give 'folds' as a list of lists of case ids")
        split = cls(
            test=_ids(tree.get("test", []), f"test in {source}"),
            folds=tuple(_ids(fold, f"fold {i} in {source}") for i, fold in enumerate(folds)),
            training_only=_ids(tree.get("training_only", []), f"training_only in {source}"),
        )
        if tree.get("hash") not in (None, split.hash):
            raise ConfigError(
                f"{source} was changed after it was written; "
                "if that was meant, delete its 'hash' and use it as a new fold file"
            )
        return split

    def to_json(self, path: Path) -> None:
        """Write the split to a file, atomically."""
        write_json(path, self.to_tree())

    @classmethod
    def from_json(cls, path: Path) -> Split:
        """Read the file that :meth:`to_json` wrote.

        Raises:
            ConfigError: See :func:`read_json` and :meth:`from_tree`.
        """
        tree = read_json(path)
        if not isinstance(tree, dict):
            raise ConfigError(f"{path.name} must hold an object with folds, test, training_only")
        return cls.from_tree(tree, path.name)

    def _require(self, fold: int) -> None:
        if not 0 <= fold < len(self.folds):
            raise ConfigError(f"there is no fold {fold}; use 0 to {len(self.folds) - 1}")


def check_split(split: Split, cases: Sequence[CaseLike], source: str = "the split") -> None:
    """Refuse a split that does not cover exactly these cases, or that tears a patient apart.

    A patient both in a fold and in ``training_only`` or ``test`` counts as torn apart.

    Raises:
        ConfigError: Unknown cases, missing cases, an empty fold, or a leak with the pairs of cases.
    """
    patient_of = {case.id: case.patient for case in cases}
    place_of = {case_id: name for name, group in split.groups() for case_id in group}
    unknown = sorted(place_of.keys() - patient_of.keys())
    if unknown:
        raise ConfigError(
            f"{source} names {listed(unknown)}, which the dataset does not hold; "
            "remove them from the file or add the cases"
        )
    missing = sorted(patient_of.keys() - place_of.keys())
    if missing:
        raise ConfigError(
            f"{source} does not say where {listed(missing)} belong; name them in a fold, "
            "in training_only (fold -1) or in test"
        )
    for name, group in split.groups():
        if name.startswith("fold") and not group:
            raise ConfigError(f"{name} of {source} is empty; give it a case or remove it")
    pairs = _leaks(patient_of, place_of)
    if pairs:
        raise ConfigError(
            f"{source} puts visits of one patient in different places: {listed(pairs, '; ')}; "
            "move them together, or the scores will be too good"
        )


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        ConfigError: It cannot be read or is not JSON.
    """
    try:
        return files.read_json(path)
    except OSError as error:
        reason = error.strerror or "not readable"
        raise ConfigError(f"{path} cannot be read ({reason}); check the name") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON: it is not text in UTF-8") from error
    except ValueError as error:
        raise ConfigError(f"{path} {error}") from error


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """The first few names, and how many more there are."""
    more = len(names) - NAMED_AT_MOST
    shown = separator.join(names[:NAMED_AT_MOST])
    return f"{shown} and {more} more" if more > 0 else shown


def _ids(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{where} must be a list of case ids")
    return tuple(value)


def _leaks(patient_of: Mapping[str, str], place_of: Mapping[str, str]) -> list[str]:
    """``"patient: case (fold 0) and case (fold 1)"`` for every two visits that lie apart."""
    visits: dict[str, list[str]] = {}
    for case_id in sorted(patient_of):
        visits.setdefault(patient_of[case_id], []).append(case_id)
    return [
        f"{patient}: {a} ({place_of[a]}) and {b} ({place_of[b]})"
        for patient, ids in sorted(visits.items())
        for a, b in combinations(ids, 2)
        if place_of[a] != place_of[b]
    ]
