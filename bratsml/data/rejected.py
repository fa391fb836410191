"""``rejected.csv``: which cases were left out, why, and what to do about it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from bratsml.errors import DataError
from bratsml.files import write_text

COLUMNS = ("case", "file", "reason", "remedy")


def write_rejected(path: Path, errors: Iterable[DataError]) -> None:
    """Write one row per error, in the given order; a file that would not change is left alone.

    With no error the file holds its header only, so that an old list never outlives its cause.
    """
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((e.case, e.file, e.reason, e.remedy) for e in errors)
    if not path.is_file() or path.read_text(encoding="utf-8") != table.getvalue():
        write_text(path, table.getvalue())
