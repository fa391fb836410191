"""The quick way through gzip says yes only where zlib does."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from bratsml.data import inflate, nifti
from bratsml.data.inflate import unpack_whole

CONTENT = np.random.default_rng(0).integers(0, 9, 5000).astype(np.uint8).tobytes()


@pytest.fixture
def zipped() -> bytes:
    if inflate._library() is None:
        pytest.skip("libdeflate is not on this machine")
    return gzip.compress(CONTENT)


def test_a_sound_file_of_the_right_size(zipped):
    assert unpack_whole(zipped, len(CONTENT)).tobytes() == CONTENT


def test_everything_else_is_left_to_zlib(zipped):
    assert unpack_whole(zipped, len(CONTENT) - 1) is None
    assert unpack_whole(zipped, len(CONTENT) + 1) is None
    assert unpack_whole(zipped[:-1], len(CONTENT)) is None
    assert unpack_whole(zipped + b"\0", len(CONTENT)) is None
    assert unpack_whole(zipped + zipped, len(CONTENT)) is None
    assert unpack_whole(b"", len(CONTENT)) is None
    assert unpack_whole(b"not gzip at all, really", len(CONTENT)) is None


def test_no_damaged_byte_passes(zipped):
    for position in range(10, len(zipped)):
        damaged = bytearray(zipped)
        damaged[position] ^= 0x41
        assert unpack_whole(bytes(damaged), len(CONTENT)) is None


def test_without_the_library_zlib_does_it(monkeypatch):
    monkeypatch.setattr(inflate, "_library", lambda: None)
    assert unpack_whole(gzip.compress(CONTENT), len(CONTENT)) is None
    assert nifti._inflate(gzip.compress(CONTENT), len(CONTENT)) == CONTENT
