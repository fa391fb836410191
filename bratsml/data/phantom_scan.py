"""How a synthetic head looks in each MRI contrast: tissue intensities, bias field, noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from bratsml.data.cases import MODALITIES
from bratsml.data.phantom_anatomy import ENHANCING, NECROSIS, OEDEMA, Brain, Field, smooth_noise
from bratsml.geometry import Shape

Image = npt.NDArray[np.int16]

# modality: CSF, grey matter, white matter, then necrosis, oedema, enhancing tumour
_INTENSITIES = {
    "t1n": (210, 520, 720, 340, 520, 470),
    "t1c": (220, 530, 720, 330, 530, 1200),
    "t2w": (1050, 560, 400, 880, 760, 640),
    "t2f": (150, 560, 450, 520, 960, 760),
}
_TUMOUR_VALUES = {NECROSIS: 3, OEDEMA: 4, ENHANCING: 5}
_TEXTURE = 0.06
_BIAS = 0.07
_NOISE = 18.0  # standard deviation, in the units above
_LARGEST = 8000.0


def scan(rng: np.random.Generator, brain: Brain, tissue: npt.NDArray[np.uint8]) -> dict[str, Image]:
    """The four modalities, exactly 0 outside the brain and at least 1 inside.

    Every modality has a gain, a smooth multiplicative bias field and Rician noise of its own.

    Args:
        tissue: As :func:`bratsml.data.phantom_anatomy.grow_tumour` makes it.
    """
    shape: Shape = brain.inside.shape
    presence = _presence(brain, tissue)
    texture = 1 + _TEXTURE * smooth_noise(rng, shape, 1.2)
    images = {}
    for modality in MODALITIES:
        signal = np.tensordot(np.asarray(_INTENSITIES[modality], float), presence, axes=1)
        signal = signal * np.where(tissue > 0, texture, 1 + (texture - 1) / 3)
        signal *= np.exp(_BIAS * smooth_noise(rng, shape, 0.3 * min(shape)))
        noise = _NOISE * rng.standard_normal((2, *shape))
        signal = np.hypot(signal + noise[0], noise[1]) * rng.uniform(0.8, 1.3)
        signal = np.clip(np.rint(signal), 1, _LARGEST)
        images[modality] = np.where(brain.inside, signal, 0).astype(np.int16)
    return images


def _presence(brain: Brain, tissue: npt.NDArray[np.uint8]) -> Field:
    """Shares ``(6, X, Y, Z)`` of the six tissues in each voxel; borders of the tumour are soft."""
    tumour = np.stack([tissue == value for value in _TUMOUR_VALUES]).astype(np.float64)
    soft = np.stack([ndimage.gaussian_filter(part, 0.45) for part in tumour])
    return np.concatenate([brain.fractions * (1 - soft.sum(axis=0)), soft])
