"""Shared fixtures."""

from __future__ import annotations

import os
from collections.abc import Iterator
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


@pytest.fixture(autouse=True, scope="session")
def _caches_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is measured while testing must neither come from a user's cache nor end up there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BRATSML_ATTENTION_CACHE", "BRATSML_MEMORY_CACHE"):
            patch.setenv(name, str(tmp_path_factory.mktemp("caches") / f"{name.lower()}.json"))
        yield
