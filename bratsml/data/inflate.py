"""Unpacking gzip within limits, at twice the speed of zlib where the system has libdeflate.

Half of preprocessing is unpacking. The library is optional and only ever used for its yes: whatever
it does not accept outright is left to zlib, which also says what is wrong.
"""

from __future__ import annotations

import ctypes
import functools
import zlib

import numpy as np
import numpy.typing as npt

from bratsml.data.header import HeaderFault

GZIP_MAGIC = b"\x1f\x8b"
DAMAGED = "copy or download it again"
MEMBER_BYTES = 1024
"""Least that a gzip file's members may hold on average; programs that cut files use 64 kB."""
_BLOCK_BYTES = 1 << 16  # small, since what follows a member within its block is copied
_PROBE_BYTES = 64 << 20  # a bomb is not followed further than this
_NAMES = ("libdeflate.so.0", "libdeflate.so", "libdeflate.0.dylib", "libdeflate.dylib")
_SUCCESS = 0


def unpack_whole(content: bytes, size: int) -> npt.NDArray[np.uint8] | None:
    """A gzip file of one member that unpacks to exactly ``size`` bytes, checksum compared.

    ``None`` when that is not what it is, or when the library is not there.
    """
    library = _library()
    if library is None or size == 0:
        return None
    unpacked = np.empty(size, dtype=np.uint8)
    num_read, num_written = ctypes.c_size_t(), ctypes.c_size_t()
    handle = library.libdeflate_alloc_decompressor()
    if not handle:
        return None
    try:
        outcome = library.libdeflate_gzip_decompress_ex(
            handle,
            content,
            len(content),
            unpacked.ctypes.data,
            size,
            ctypes.byref(num_read),
            ctypes.byref(num_written),
        )
    finally:
        library.libdeflate_free_decompressor(handle)
    whole = num_read.value == len(content) and num_written.value == size
    return unpacked if outcome == _SUCCESS and whole else None


def unpack_start(content: bytes, size: int) -> bytes:
    """The first ``size`` bytes of a gzip file, or fewer where ``content`` holds no more.

    Raises:
        zlib.error: Damaged.
    """
    return zlib.decompressobj(wbits=31).decompress(content, size)


def follow_to_checksum(content: bytes) -> None:
    """Raise ``zlib.error`` when the first gzip member is damaged; gives up on huge ones."""
    stream, unpacked = zlib.decompressobj(wbits=31), 0
    for start in range(0, len(content), _BLOCK_BYTES):
        block = content[start : start + _BLOCK_BYTES]
        while block and not stream.eof and unpacked < _PROBE_BYTES:
            unpacked += len(stream.decompress(block, _PROBE_BYTES))
            block = stream.unconsumed_tail


def inflate(content: bytes, size: int) -> bytearray:
    """Exactly ``size`` bytes, every gzip member followed to its checksum.

    Raises:
        HeaderFault: It unpacks to more or less, or is not gzip to its end.
        zlib.error: Damaged.
    """
    unpacked, held, members = bytearray(size), 0, 1
    stream = zlib.decompressobj(wbits=31)
    position, rest = 0, b""
    while position < len(content) or rest:
        block = rest + content[position : position + _BLOCK_BYTES]
        position += _BLOCK_BYTES
        rest = b""
        while block:
            if stream.eof:  # between members; tape padding is legal
                block = block.lstrip(b"\0")
                if len(block) < len(GZIP_MAGIC) and position < len(content):
                    rest = block
                    break
                if not block:
                    break
                if not block.startswith(GZIP_MAGIC):
                    stray = len(block) + max(0, len(content) - position)
                    raise HeaderFault(f"has {stray} stray bytes after its gzip trailer", DAMAGED)
                stream, members = zlib.decompressobj(wbits=31), members + 1
                if members > 16 + size // MEMBER_BYTES:
                    raise HeaderFault(f"is cut into more than {members - 1} gzip members", DAMAGED)
            # One byte more than declared: a longer stream is seen without unpacking it, and a
            # stream of the right length runs on into its trailer.
            piece = stream.decompress(block, size - held + 1)
            if held + len(piece) > size:
                reason = f"is corrupt: it unpacks to more than the {size} bytes its header declares"
                raise HeaderFault(reason, DAMAGED)
            unpacked[held : held + len(piece)] = piece
            held += len(piece)
            block = stream.unused_data
    if not stream.eof and held == size:
        raise HeaderFault("is truncated: the gzip trailer is incomplete", DAMAGED)
    if not stream.eof:
        reason = f"is truncated: {size - held} of {size} bytes are missing at the end"
        raise HeaderFault(reason, DAMAGED)
    return unpacked if held == size else unpacked[:held]


@functools.cache
def _library() -> ctypes.CDLL | None:
    for name in _NAMES:
        try:
            library = ctypes.CDLL(name)
            library.libdeflate_alloc_decompressor.argtypes = []
            library.libdeflate_alloc_decompressor.restype = ctypes.c_void_p
            library.libdeflate_free_decompressor.argtypes = [ctypes.c_void_p]
            library.libdeflate_free_decompressor.restype = None
            unpack = library.libdeflate_gzip_decompress_ex
            unpack.argtypes = [
                ctypes.c_void_p,
                ctypes.c_char_p,
                ctypes.c_size_t,
                ctypes.c_void_p,
                ctypes.c_size_t,
                ctypes.c_void_p,
                ctypes.c_void_p,
            ]
            unpack.restype = ctypes.c_int
        except (OSError, AttributeError):
            continue
        return library
    return None
