"""Probabilities kept small on disk, so that thresholds can be chosen without a GPU.

One file per case: one byte per channel and voxel of the stored grid, compressed; usually below half
a megabyte. One half falls between two bytes, so masks at that threshold come back as they were;
elsewhere a probability is off by at most 1/510.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bratsml.errors import DataError
from bratsml.files import read_archived_array, stored_name, write_bytes

LEVELS = 255
LIMIT_BYTES = 1 << 30
"""Most that one case may take: eight channels of 512 voxels a side."""
_ARRAY = "levels"


def save_probabilities(path: Path, probabilities: npt.NDArray[np.floating]) -> None:
    """Write probabilities ``(C, X, Y, Z)``, 0 to 1.

    Raises:
        ResourceError: The disk is full.
    """
    levels = np.rint(np.clip(probabilities, 0, 1) * LEVELS).astype(np.uint8)
    stream = io.BytesIO()
    np.savez_compressed(stream, **{_ARRAY: levels})
    write_bytes(path, stream.getvalue())


def kept_file(case_id: str) -> str:
    """Name of the file that keeps a case's probabilities, also as an artifact of a run.

    Example:
        >>> kept_file("BraTS-GLI-00000-000"), kept_file("case #1")
        ('BraTS-GLI-00000-000.npz', 'case~20~231.npz')
    """
    return f"{stored_name(case_id)}.npz"


def kept_path(folder: Path, case_id: str) -> Path:
    """The file that keeps a case's probabilities in a folder, of today or of the first version."""
    path, old = folder / kept_file(case_id), folder / old_kept_file(case_id)
    return old if old.is_file() and not path.is_file() else path


def old_kept_file(case_id: str) -> str:
    """What :func:`kept_file` was in the first version: another name where it needs encoding."""
    return f"{case_id}.npz"


def load_probabilities(path: Path, shape: tuple[int, ...] | None = None) -> npt.NDArray[np.float32]:
    """Read them back as float32 ``(C, X, Y, Z)``.

    Args:
        shape: What they must have; any four axes if not given.

    Raises:
        DataError: The file is missing or damaged, or of another shape.
    """
    try:
        levels = read_archived_array(path, _ARRAY, LIMIT_BYTES)
        if levels.dtype != np.uint8 or levels.ndim != 4 or shape not in (None, levels.shape):
            found = f"{levels.dtype} of shape {levels.shape}"
            raise ValueError(f"holds {found}, expected uint8 of shape {shape or '(C, X, Y, Z)'}")
    except (OSError, ValueError) as error:
        told = (isinstance(error, OSError) and error.strerror) or str(error)
        reason = f"its kept probabilities cannot be read ({told})"
        raise DataError(path.stem, path.name, reason, "run its fold again") from error
    return levels.astype(np.float32) / np.float32(LEVELS)
