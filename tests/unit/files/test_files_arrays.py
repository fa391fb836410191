from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bratsml.files import open_array, read_archived_array


def save(path: Path, array: np.ndarray, allow_pickle: bool = False) -> bytes:
    with path.open("wb") as stream:
        np.save(stream, array, allow_pickle=allow_pickle)
    return path.read_bytes()


def test_an_array_comes_back_mapped_in_either_order(tmp_path: Path) -> None:
    for order in ("C", "F"):
        array = np.asarray(np.arange(24, dtype=np.float16).reshape(2, 3, 4), order=order)
        save(tmp_path / "x.npy", array)
        found = open_array(tmp_path / "x.npy")
        assert isinstance(found, np.memmap)
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, array)


def header(text: str, size: int = 0) -> bytes:
    """A .npy file with that header, format 1.0."""
    content = text.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(content).to_bytes(2, "little") + content + bytes(size)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 an archive named .npy",
        b"\x93NUMPY\x09\x00",
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }", 15),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }", 17),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976,), }", 16),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }", 16),
        header("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3), }"),
        header("{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", 16),
        header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", 8),
        header("(" * 5000),
        header("{'descr': '<f4', 'shape': '''"),
        header("__import__('os').system('true')"),
        header("{}"),
        header("5"),
    ],
)
def test_anything_else_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"numbers"):
        open_array(path)


def test_a_pickled_array_is_not_unpickled(tmp_path: Path) -> None:
    save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not an array of numbers"):
        open_array(tmp_path / "x.npy")


def test_an_array_of_an_archive_is_read_and_checked(tmp_path: Path) -> None:
    path, levels = tmp_path / "x.npz", np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    np.savez_compressed(path, levels=levels)
    np.testing.assert_array_equal(read_archived_array(path, "levels", 1000), levels)
    for name, limit in (("other", 1000), ("levels", 59)):
        with pytest.raises((ValueError, OSError)):
            read_archived_array(path, name, limit)


def test_every_flipped_byte_of_an_archive_is_seen_or_harmless(tmp_path: Path) -> None:
    path, levels = tmp_path / "x.npz", np.random.default_rng(0).integers(0, 255, 99, np.uint8)
    np.savez_compressed(path, levels=levels)
    whole = path.read_bytes()
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        path.write_bytes(broken)
        try:
            found = read_archived_array(path, "levels", 1 << 20)
        except (ValueError, OSError):
            continue
        np.testing.assert_array_equal(found, levels)


def test_an_archive_that_unpacks_to_more_than_the_limit_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        text = "{'descr': '|u1', 'fortran_order': False, 'shape': (90000000,), }"
        archive.writestr("levels.npy", header(text, 90_000_000))
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="declares 90 MB, at most 1 MB"):
        read_archived_array(path, "levels", 1_000_000)


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.npy")
    with pytest.raises(OSError, match="pipe"):
        open_array(tmp_path / "x.npy")
