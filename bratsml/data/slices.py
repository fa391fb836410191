"""Copies of stored cases in which an axial slice lies in one piece.

A stored image runs along Z first, so every page of its file holds voxels of every axial slice, and
reading a single slice takes the whole file off the disk. The copy runs along Y first: a slice is
one stretch of it, and no more is read.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import IO

import numpy as np

from bratsml.data.store import CASES_FOLDER, Store
from bratsml.errors import ResourceError
from bratsml.files import array_header, open_file, write_atomically
from bratsml.geometry import Array

THIN = 16
"""Slices up to which reading a patch from the copy is quicker (docs/decisions/0012-slices.md)."""
THIN_SHARE = 1 / 3
"""Most that they may be of the case's depth, for a copy to be worth its room on the disk."""

_log = logging.getLogger(__name__)


def is_thin(depth: int, case_depth: int) -> bool:
    """Whether patches so deep are read from copies."""
    return depth <= min(THIN, THIN_SHARE * case_depth)


def read_slices(store: Store, case_id: str, first: int, depth: int) -> tuple[Array, Array, int]:
    """Some slices of a case, read from its copies; these are made when they are not there.

    Where they cannot be written, the stored arrays are read instead, with a warning.

    Args:
        first: Lowest slice wanted; it and those above may lie outside the case.

    Returns:
        Image ``(4, X, Y, z)`` and label map ``(X, Y, z)`` with the wanted slices that exist, and
        the number of the first of them; or the whole case, and 0.

    Raises:
        DataError: The case cannot be read.
    """
    holder = store.holder_of(case_id)
    image, label = holder.image(case_id), holder.label(case_id)
    assert label is not None  # the loader has checked it
    low = min(max(first, 0), label.shape[-1])
    high = min(max(first + depth, low), label.shape[-1])
    folder = holder.path / CASES_FOLDER / case_id
    mark = holder.index.cases[case_id][:16]  # a case that is prepared anew gets new copies
    found: tuple[Array, Array, int]
    try:
        found = (
            _slices(folder / f"image_slices_{mark}.npy", image, low, high),
            _slices(folder / f"label_slices_{mark}.npy", label, low, high),
            low,
        )
    except ResourceError as error:
        _warn_once(holder.path, str(error))
        found = image, label, 0
    # copies keep the values of the store they lie in, as others read them too
    return found[0], store.translated(case_id, found[1]), found[2]


def _slices(path: Path, stored: Array, low: int, high: int) -> Array:
    """Slices ``low`` to ``high`` of an array ``(..., X, Y, Z)``, from its copy ``(Z, ..., X, Y)``.

    Raises:
        ResourceError: The copy cannot be written.
    """
    by_slice = np.moveaxis(stored, -1, 0)
    found = _read(path, by_slice, low, high)
    if found is None:
        write_atomically(path, functools.partial(_write, by_slice))
        found = by_slice[low:high]
    return np.moveaxis(found, 0, -1)


def _write(by_slice: Array, stream: IO[bytes]) -> None:
    np.save(stream, np.ascontiguousarray(by_slice), allow_pickle=False)


def _read(path: Path, by_slice: Array, low: int, high: int) -> Array | None:
    """Those slices of the copy, or ``None`` when there is no whole copy of that array.

    Not by memory map, since a page fault reads some megabytes ahead.
    """
    slices = np.empty((high - low, *by_slice.shape[1:]), by_slice.dtype)
    try:
        with open_file(path) as stream:
            shape, in_columns, dtype = array_header(stream)
            if (shape, in_columns, dtype) != (by_slice.shape, False, by_slice.dtype):
                return None
            stream.seek(low * int(by_slice[:1].nbytes), 1)
            got = stream.readinto(slices.reshape(-1).view(np.uint8).data)
    except (OSError, ValueError):
        return None
    return slices if got == slices.nbytes else None


@functools.cache
def _warn_once(store: Path, reason: str) -> None:
    """Say it once per store and process."""
    _log.warning(
        "%s; slices are read from the stored volumes of %s instead, which is slower",
        reason,
        store.name,
    )
