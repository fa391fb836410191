from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bratsml.files.tables import (
    read_table,
    rows_as_csv,
    spreadsheet_text,
    table_as_csv,
    text_of_cell,
)

STARTS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@given(st.text())
def test_a_cell_comes_back_and_is_no_formula(text: str) -> None:
    cell = spreadsheet_text(text)
    assert text_of_cell(cell) == text
    try:
        float(cell)
    except ValueError:
        assert not cell.startswith(STARTS_A_FORMULA)


def test_values_come_back_exactly(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "case": ["0012", "NA", "=cmd|x", "'x", "-3", 'a,"b"', "1e5", "True"],
            "region": ["ET"] * 8,
            "dice": [0.1 + 0.2, np.nan, -1e-300, 1 / 3, np.inf, 0.0, 5e-324, 1.0],
            "fold": range(8),
            "model": ["@a", "-", None, "x", "y", "NA", "'=q", "7"],
            "missing": [True, False] * 4,
        }
    )
    path = tmp_path / "t.csv"
    path.write_text(table_as_csv(table))
    found = read_table(path, ("case", "dice"))
    assert found["case"].tolist() == table["case"].tolist()
    np.testing.assert_array_equal(found["dice"], table["dice"])
    assert found["model"].dropna().tolist() == table["model"].dropna().tolist()
    assert found["missing"].dtype == bool
    assert found["fold"].dtype == np.int64
    cells = [cell for row in csv.reader(io.StringIO(path.read_text())) for cell in row]
    assert {c for c in cells if c.startswith(STARTS_A_FORMULA)} == {"-3", "-1e-300"}


@given(st.lists(st.floats(), min_size=1))
def test_every_number_comes_back_exactly(values: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_text(table_as_csv(pd.DataFrame({"case": "a", "dice": values})))
        found = read_table(path)["dice"].to_numpy(np.float64)
    np.testing.assert_array_equal(found, np.array(values))


@pytest.mark.parametrize("text", ["", "\x00", 'a\n"b', "case,dice\n1\n2,3,4,5\n", "region,dice\n"])
def test_what_is_no_such_table_is_a_value_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError):
        read_table(path, ("case",))


def test_rows_of_text_are_written_safely() -> None:
    assert rows_as_csv(("case", "x"), [("=1", "a,b")]) == 'case,x\n\'=1,"a,b"\n'
