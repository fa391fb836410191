"""Fixtures for tests that read raw cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from raw_cases import WriteCase, case_writer


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """An empty folder for raw cases."""
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def write_raw_case(raw: Path) -> WriteCase:
    return case_writer(raw)
