"""What every metric asks of its masks."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bratsml.geometry import Spacing

BoolVolume = npt.NDArray[np.bool_]
"""Mask of shape ``(X, Y, Z)``."""


def require_masks(prediction: npt.NDArray[np.generic], reference: npt.NDArray[np.generic]) -> None:
    """Refuse what is not a pair of boolean arrays of one shape.

    Probabilities, NaN or label values would give numbers that look like scores.

    Raises:
        ValueError: Naming the dtype or shapes received.
    """
    for name, mask in (("prediction", prediction), ("reference", reference)):
        if mask.dtype != np.bool_:
            raise ValueError(f"{name} must be boolean, received {_describe(mask)}")
    if prediction.shape != reference.shape:
        raise ValueError(f"shapes differ: {prediction.shape} and {reference.shape}")


def require_spacing(spacing_mm: Spacing) -> None:
    """Refuse voxel sizes that no volume has; they would give distances of 0 or NaN.

    Raises:
        ValueError: Not three finite sizes above 0; names those received.
    """
    if len(spacing_mm) != 3 or not all(math.isfinite(mm) and mm > 0 for mm in spacing_mm):
        raise ValueError(f"spacing must be three sizes above 0 mm, received {tuple(spacing_mm)}")


def _describe(values: npt.NDArray[np.generic]) -> str:
    unusable = int(np.isnan(values).sum()) if np.issubdtype(values.dtype, np.inexact) else 0
    return f"{values.dtype} with {unusable} NaN" if unusable else str(values.dtype)
