"""NumPy arrays in files, opened without believing what the file says of itself.

``numpy.load`` waits for pipes, takes an archive named ``.npy`` for an archive, allocates what a
header declares and ends in half a dozen kinds of errors. Here the header is checked against the
size of the file first, and all that can be wrong is a :class:`ValueError` or an :class:`OSError`.
"""

from __future__ import annotations

import io
import math
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from bratsml.files.reading import open_file, read_bytes

_HEADER_LIMIT = 10_000
"""Characters; a header of ours has 118."""
_NUMBERS = "biuf"
_HEADER_ERRORS = (
    ValueError, TypeError, KeyError, SyntaxError, RecursionError, MemoryError, AssertionError,
    OverflowError, tokenize.TokenError,
)  # fmt: skip
_ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError)


def open_array(path: Path) -> np.memmap[Any, np.dtype[Any]]:
    """Memory map of a ``.npy`` file of numbers, read-only.

    Raises:
        ValueError: Not such a file, or cut or extended.
        OSError: As :func:`bratsml.files.open_file`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(Path(folder) / "x.npy", np.arange(3))
        ...     open_array(Path(folder) / "x.npy").tolist()
        [0, 1, 2]
    """
    with open_file(path) as stream:
        shape, in_columns, dtype = _header(stream)
        start = stream.tell()
        _require_size(shape, dtype, os.fstat(stream.fileno()).st_size - start)
        order: Literal["C", "F"] = "F" if in_columns else "C"
        opened: Any = stream
        return np.memmap(opened, dtype=dtype, mode="r", offset=start, shape=shape, order=order)


def array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and type of the ``.npy`` content that begins here.

    Raises:
        ValueError: No header of an array of numbers.
    """
    return _header(stream)


def read_archived_array(path: Path, name: str, limit: int) -> npt.NDArray[Any]:
    """One array of an ``.npz`` file, its checksum compared.

    Args:
        limit: Most bytes of the file, and of the array.

    Raises:
        ValueError: Not such a file, damaged, without that array, or with a larger one.
        OSError: As :func:`bratsml.files.read_bytes`.
    """
    content = read_bytes(path, limit)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive, archive.open(f"{name}.npy") as stream:
            shape, in_columns, dtype = _header(stream)
            size = math.prod(shape) * dtype.itemsize
            if size > limit:
                raise ValueError(f"declares {size / 1e6:.0f} MB, at most {limit / 1e6:.0f} MB")
            # one byte more than declared: reading on to the end compares the checksum
            data = stream.read(size + 1)
    except _ARCHIVE_ERRORS as error:
        raise ValueError(f"is damaged ({type(error).__name__})") from error
    except RuntimeError as error:  # how zipfile refuses what needs a password
        raise ValueError("is encrypted") from error
    _require_size(shape, dtype, len(data))
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if in_columns else "C")


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"is of version {version}")
        one = version == (1, 0)
        read = np.lib.format.read_array_header_1_0 if one else np.lib.format.read_array_header_2_0
        shape, in_columns, dtype = read(stream, max_header_size=_HEADER_LIMIT)
    except _HEADER_ERRORS as error:
        raise ValueError("is not an array of numbers (.npy)") from error
    if dtype.kind not in _NUMBERS or any(side < 1 for side in shape):
        raise ValueError("is not an array of numbers (.npy)")
    return shape, in_columns, dtype


def _require_size(shape: tuple[int, ...], dtype: np.dtype[Any], found: int) -> None:
    expected = math.prod(shape) * dtype.itemsize
    if found != expected:
        raise ValueError(f"holds {found} bytes of numbers, its header declares {expected}")
