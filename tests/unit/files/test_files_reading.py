from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from bratsml.files import (
    FileTooLargeError,
    NotAFileError,
    open_file,
    parse_json,
    read_bytes,
    read_end,
    read_json,
    read_text,
    sha256_of,
)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for path in (pipe, link):
        for read in (open_file, read_text, read_json, sha256_of):
            with pytest.raises(NotAFileError) as caught:
                read(path)
            assert caught.value.strerror == "is a pipe, not a file"


def test_devices_sockets_and_folders_are_refused(tmp_path: Path) -> None:
    endless = tmp_path / "endless.nii"
    endless.symlink_to("/dev/zero")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(tmp_path / "s"))
    try:
        for path, kind in ((endless, "device"), (tmp_path / "s", "socket"), (tmp_path, "folder")):
            with pytest.raises(NotAFileError, match=kind):
                read_bytes(path, 10)
    finally:
        listener.close()


def test_no_more_is_read_than_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(FileTooLargeError, match=r"at most 0\.0 MB"):
        read_bytes(path, 4)


def test_a_file_that_understates_its_size_is_bounded_too() -> None:
    path = Path("/proc/self/status")  # size 0 by its folder entry
    assert path.stat().st_size == 0
    with pytest.raises(FileTooLargeError, match="has more"):
        read_bytes(path, 10)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "1" * 5000, "\x00"])
def test_json_that_cannot_be_read_is_a_value_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ValueError):
        read_json(path)


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(path) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "a": 2}', "names 'a' twice"),
        ('[{"b": {"\\u202e": 1, "\\u202e": 2}}]', r"names '\u202e' twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("{'a': 1}", "not valid JSON"),
    ],
)
def test_json_says_what_is_wrong_with_it(text: str, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_json(text)
    assert told in str(caught.value)


def test_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"x" * 100 + b"\xff\nlast")
    assert read_end(path, 6) == "\ufffd\nlast"
    assert read_end(path).endswith("last")
