"""Small files that processes of this package leave for each other, read back with suspicion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from bratsml.config import Tree
from bratsml.errors import ResourceError
from bratsml.files import read_json, read_table

RecordT = TypeVar("RecordT")


def load_record(make: Callable[..., RecordT], path: Path) -> RecordT:
    """What ``make`` makes of the fields in a file.

    Raises:
        ResourceError: The file cannot be read, or is no such record.
    """
    try:
        return make(**read_json(path))
    except (OSError, ValueError, TypeError) as error:
        raise ResourceError(
            f"{path.name} in {path.parent.name} cannot be read ({_reason(error)}); delete it and "
            "run the same command again"
        ) from error


def find_record(path: Path) -> Tree:
    """The fields in a file; none where it is missing or damaged, so that work is redone at most."""
    try:
        content: Any = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def epochs_in(record: Tree) -> int:
    """Epochs that a record of progress tells of; 0 where it tells of none."""
    epoch = record.get("epoch")
    return epoch if isinstance(epoch, int) else 0


def load_scores(path: Path) -> pd.DataFrame:
    """A case x region table that a fold left behind.

    Raises:
        ResourceError: It cannot be read, or is something else.
    """
    try:
        return read_table(path, ("case", "region", "dice"))
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"{path.name} in {path.parent.name} cannot be read ({_reason(error)}); delete that "
            "folder and run the same command again"
        ) from error


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
