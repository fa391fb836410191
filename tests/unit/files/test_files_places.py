from __future__ import annotations

from pathlib import Path

import pytest

from bratsml.errors import ConfigError
from bratsml.files import require_apart


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "project" / "scans"
    folder.mkdir(parents=True)
    return folder


def test_the_same_place_under_any_spelling_is_refused(scans: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(scans)
    dotted = scans / ".." / "scans" / "not_yet" / ".."
    for spelling in (scans, link, dotted, Path(f"{scans}/")):
        with pytest.raises(ConfigError, match="is the same place as the data"):
            require_apart(spelling, [scans])
        with pytest.raises(ConfigError, match="is the same place as the data"):
            require_apart(scans, [spelling])


def test_a_folder_inside_or_around_the_data_is_refused(scans: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere"
    link.symlink_to(scans)
    for inside in (scans / "out", scans / "a" / "b", link / "out"):
        with pytest.raises(ConfigError, match="lies inside the data"):
            require_apart(inside, [scans])
    with pytest.raises(ConfigError, match="contains the data"):
        require_apart(scans.parent, [tmp_path / "other", link])


def test_neighbours_are_apart_whether_they_exist_or_not(scans: Path) -> None:
    (scans.parent / "out").mkdir()
    require_apart(scans.parent / "out", [scans])
    require_apart(scans.parent / "scans2", [scans])
    require_apart(scans.parent / "not_yet" / "deep", [scans, scans.parent / "nor_this"])


def test_places_that_do_not_exist_overlap_too(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="lies inside"):
        require_apart(tmp_path / "new" / "out", [link / "new"])
    with pytest.raises(ConfigError, match="same place"):
        require_apart(tmp_path / "new", [link / "new"])
