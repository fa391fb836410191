"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real BraTS cases, or a skip that says what is missing."""
    folder = Path(os.environ.get("BRATSML_DATA", PROJECT.parent / "shared" / "data"))
    if not (folder / "brats2021").is_dir():
        pytest.skip(f"no real cases: set BRATSML_DATA to a folder with brats2021/ ({folder.name})")
    return folder
