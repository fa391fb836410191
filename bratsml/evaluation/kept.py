"""Probabilities kept small on disk, so that thresholds can be chosen without a GPU.

One file per case: one byte per channel and voxel of the stored grid, compressed; usually below half
a megabyte. One half falls between two bytes, so masks at that threshold come back as they were;
elsewhere a probability is off by at most 1/510.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bratsml.errors import DataError
from bratsml.files import write_bytes

LEVELS = 255


def save_probabilities(path: Path, probabilities: npt.NDArray[np.floating]) -> None:
    """Write probabilities ``(C, X, Y, Z)``, 0 to 1.

    Raises:
        ResourceError: The disk is full.
    """
    levels = np.rint(np.clip(probabilities, 0, 1) * LEVELS).astype(np.uint8)
    stream = io.BytesIO()
    np.savez_compressed(stream, levels=levels)
    write_bytes(path, stream.getvalue())


def load_probabilities(path: Path) -> npt.NDArray[np.float32]:
    """Read them back as float32 ``(C, X, Y, Z)``.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            levels = content["levels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            path.stem, path.name, "its kept probabilities cannot be read", "run its fold again"
        ) from error
    return levels.astype(np.float32) / np.float32(LEVELS)
