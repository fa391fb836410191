"""Unpacking gzip at twice the speed of zlib where the system has libdeflate.

Half of preprocessing is unpacking. The library is optional and only ever used for its yes: whatever
it does not accept outright is left to zlib, which also says what is wrong.
"""

from __future__ import annotations

import ctypes
import functools

import numpy as np
import numpy.typing as npt

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
