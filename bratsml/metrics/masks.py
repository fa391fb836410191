"""What every metric asks of its masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def require_masks(prediction: npt.NDArray[np.generic], reference: npt.NDArray[np.generic]) -> None:
    """Refuse what is not a pair of boolean volumes of one shape.

    Probabilities or label values would give numbers that look like scores.

    Raises:
        ValueError: Naming the dtype or shapes received.
    """
    for name, mask in (("prediction", prediction), ("reference", reference)):
        if mask.dtype != np.bool_:
            raise ValueError(f"{name} must be boolean, received {mask.dtype}; threshold it first")
    if prediction.shape != reference.shape:
        raise ValueError(f"shapes differ: {prediction.shape} and {reference.shape}")
