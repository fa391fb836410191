"""Tables as CSV files: safe to open in a spreadsheet, and read back as they were.

A spreadsheet takes a cell that begins with ``=`` for a formula and runs it; names of cases come
from whoever made the data. Such text is written with an apostrophe before it, which spreadsheets do
not show and reading takes away again.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bratsml.files.reading import read_text

if TYPE_CHECKING:
    import pandas as pd

TEXT_COLUMNS = ("case", "patient", "region")
"""Read as text whatever they look like: a case may be called ``0012`` or ``NA``."""
_FORMULA = re.compile(r"['=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")


def spreadsheet_text(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula.

    Example:
        >>> spreadsheet_text("=1+1"), spreadsheet_text("-0.5"), spreadsheet_text("BraTS-1")
        ("'=1+1", '-0.5', 'BraTS-1')
    """
    is_formula = _FORMULA.match(text) and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def text_of_cell(cell: str) -> str:
    """What :func:`spreadsheet_text` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def rows_as_csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """CSV text of a table of text, lines ended by line feeds."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([spreadsheet_text(cell) for cell in row] for row in rows)
    return table.getvalue()


def table_as_csv(table: pd.DataFrame) -> str:
    """CSV text of a table without its index."""
    safe = table.copy(deep=False)
    for place in range(safe.shape[1]):
        if safe.dtypes.iloc[place].kind not in "biuf":
            safe.isetitem(place, safe.iloc[:, place].map(_safe, na_action="ignore"))
    return safe.to_csv(index=False)


def read_table(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A table that :func:`table_as_csv` made, every value as it was.

    Args:
        columns: Those that must be there.

    Raises:
        ValueError: Not such a table.
        OSError: As :func:`bratsml.files.read_bytes`.
    """
    import pandas as pd

    text = read_text(path)
    header = next(csv.reader(io.StringIO(text)), [])
    table = pd.read_csv(
        io.StringIO(text),
        dtype=dict.fromkeys(TEXT_COLUMNS, "str"),
        keep_default_na=False,
        na_values={name: ["", "nan"] for name in header if name not in TEXT_COLUMNS},
    )
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(f"{path.name} has no column {missing[0]}")
    for name in table.columns:
        if table[name].dtype.kind not in "biuf":
            table[name] = table[name].map(_plain, na_action="ignore")
    return table


def _safe(value: Any) -> Any:
    return spreadsheet_text(value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    return text_of_cell(value) if isinstance(value, str) else value
