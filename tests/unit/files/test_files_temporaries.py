from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bratsml.files import is_temporary, remove_abandoned, temporary_folder
from bratsml.files.temporaries import temporary_file, temporary_path

ABANDON = """
import os, sys
from pathlib import Path
from bratsml.files.temporaries import temporary_file, temporary_folder
place = Path(sys.argv[1])
temporary_file(place / "weights.pt")
with temporary_folder(place / "case") as folder:
    (folder / "image.npy").write_bytes(b"half")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", ABANDON, str(tmp_path)], check=False)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2
    assert all(map(is_temporary, left))
    assert sorted(path.name for path in remove_abandoned(tmp_path)) == left
    assert list(tmp_path.iterdir()) == []


def test_what_is_still_being_written_stays(tmp_path: Path) -> None:
    path, descriptor = temporary_file(tmp_path / "weights.pt")
    with temporary_folder(tmp_path / "case") as folder:
        assert remove_abandoned(tmp_path) == []
        assert path.exists()
        assert folder.exists()
    os.close(descriptor)
    assert remove_abandoned(tmp_path) == [path]


def test_hidden_entries_of_others_and_links_stay(tmp_path: Path) -> None:
    for name in (".git", ".ssh", ".bratsml", ".bratsml-notes", "case"):
        (tmp_path / name).mkdir()
    precious = tmp_path / "precious"
    precious.mkdir()
    link = temporary_path(tmp_path / "case")
    link.symlink_to(precious)
    assert remove_abandoned(tmp_path) == []
    assert link.is_symlink()
    assert remove_abandoned(tmp_path / "nowhere") == []


def test_long_names_still_get_a_temporary(tmp_path: Path) -> None:
    path, descriptor = temporary_file(tmp_path / ("ä" * 127))
    os.close(descriptor)
    assert path.exists()
