"""``rejected.csv``: which cases were left out, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bratsml.errors import DataError
from bratsml.files import printable, read_text, rows_as_csv, write_text

COLUMNS = ("case", "file", "reason", "remedy")


def write_rejected(path: Path, errors: Iterable[DataError]) -> None:
    """Write one row per error, in the given order; a file that would not change is left alone.

    With no error the file holds its header only, so that an old list never outlives its cause.
    """
    rows = [[*map(printable, (e.case, e.file, e.reason, e.remedy))] for e in errors]
    text = rows_as_csv(COLUMNS, rows)
    if _content(path) != text:
        write_text(path, text)


def _content(path: Path) -> str | None:
    try:
        return read_text(path)
    except (OSError, ValueError):
        return None
