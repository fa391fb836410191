"""The quick way through gzip says yes only where zlib does."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from bratsml.data import inflate
from bratsml.data.header import HeaderFault
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
    assert inflate.inflate(gzip.compress(CONTENT), len(CONTENT)) == CONTENT


@pytest.mark.parametrize("cuts", [(), (1,), (2500,), (1000, 1000, 2000)])
@pytest.mark.parametrize("padding", [b"", b"\0", b"\0" * 70_000])
def test_members_and_padding_are_joined(cuts, padding, monkeypatch):
    monkeypatch.setattr(inflate, "_BLOCK_BYTES", 7)  # members that begin within, at and across
    pieces = np.split(np.frombuffer(CONTENT, np.uint8), cuts)
    zipped = padding.join(gzip.compress(piece.tobytes()) for piece in pieces)
    assert inflate.inflate(zipped + padding[:100], len(CONTENT)) == CONTENT


@pytest.mark.parametrize("block", [7, 1 << 16])
def test_what_follows_the_content_is_told(block, monkeypatch):
    monkeypatch.setattr(inflate, "_BLOCK_BYTES", block)
    zipped = gzip.compress(CONTENT)
    for more, told in [
        (b"xyz", "has 3 stray bytes"),
        (b"\x1f", "has 1 stray bytes"),
        (gzip.compress(b"more"), "unpacks to more than the 5000 bytes"),
        (gzip.compress(b"")[:-3], "the gzip trailer is incomplete"),
    ]:
        with pytest.raises(HeaderFault, match=told):
            inflate.inflate(zipped + more, len(CONTENT))
    with pytest.raises(HeaderFault, match="1 of 5001 bytes are missing"):
        inflate.inflate(zipped[:-8], len(CONTENT) + 1)


def test_a_file_of_countless_members_is_given_up_on():
    with pytest.raises(HeaderFault, match="cut into more than 20 gzip members"):
        inflate.inflate(gzip.compress(CONTENT) + gzip.compress(b"") * 50_000, len(CONTENT))
