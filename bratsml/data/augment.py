"""Random changes to a training patch, chosen by config as a list of steps in order.

Every draw comes from the generator that is passed in, the sample's own, so a sample is the same in
any process. A step gets an image ``(4, X, Y, Z)`` float32 and a label map ``(X, Y, Z)`` uint8 that
it may change in place or replace by a view, and keeps their shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import AfterValidator, Field

from bratsml.config import Config

Image = npt.NDArray[np.float32]
LabelMap = npt.NDArray[np.uint8]
Patch = tuple[Image, LabelMap]
Probability = Annotated[float, Field(ge=0, le=1)]


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("the lower limit comes first")
    return limits


def _positive(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] <= 0:
        raise ValueError("both limits must be above 0")
    return _ascending(limits)


Limits = Annotated[tuple[float, float], AfterValidator(_ascending)]
"""Lower and upper limit of a uniform draw."""
Factors = Annotated[tuple[float, float], AfterValidator(_positive)]
"""Limits of a factor; both above 0."""


class Flip(Config):
    """Mirror along each of the axes, independently.

    Attributes:
        probability: Per axis.
        axes: Among 0, 1, 2 for X (left-right), Y, Z.
    """

    kind: Literal["flip"] = "flip"
    probability: Probability = 0.5
    axes: tuple[Literal[0, 1, 2], ...] = (0, 1, 2)

    def apply(self, image: Image, label: LabelMap, rng: np.random.Generator) -> Patch:
        """Views of the mirrored patch."""
        chosen = [axis for axis in self.axes if rng.random() < self.probability]
        if not chosen:
            return image, label
        return np.flip(image, tuple(axis + 1 for axis in chosen)), np.flip(label, tuple(chosen))


class Rotate90(Config):
    """Turn by 90, 180 or 270 degrees in a plane drawn among three.

    In a plane whose two sides differ it is always 180 degrees, so the shape stays.
    """

    kind: Literal["rotate90"] = "rotate90"
    probability: Probability = 0.5

    def apply(self, image: Image, label: LabelMap, rng: np.random.Generator) -> Patch:
        """Views of the turned patch."""
        if rng.random() >= self.probability:
            return image, label
        a, b = ((0, 1), (0, 2), (1, 2))[int(rng.integers(3))]
        turns = int(rng.integers(1, 4))
        if label.shape[a] != label.shape[b]:
            turns = 2
        return np.rot90(image, turns, (a + 1, b + 1)), np.rot90(label, turns, (a, b))


class GaussianNoise(Config):
    """Add independent normal noise to every voxel.

    Attributes:
        std: In units of the stored image (standard deviations inside the brain for ``native``).
    """

    kind: Literal["gaussian_noise"] = "gaussian_noise"
    probability: Probability = 0.2
    std: float = Field(default=0.1, gt=0)

    def apply(self, image: Image, label: LabelMap, rng: np.random.Generator) -> Patch:
        """The patch with noise, in place."""
        if rng.random() < self.probability:
            noise = rng.standard_normal(image.shape, dtype=np.float32)
            noise *= np.float32(self.std)
            image += noise
        return image, label


class ScaleIntensity(Config):
    """Multiply each modality by a factor of its own."""

    kind: Literal["scale_intensity"] = "scale_intensity"
    probability: Probability = 0.15
    factor: Factors = (0.75, 1.25)

    def apply(self, image: Image, label: LabelMap, rng: np.random.Generator) -> Patch:
        """The scaled patch, in place."""
        if rng.random() < self.probability:
            image *= _per_modality(self.factor, image, rng)
        return image, label


class ShiftIntensity(Config):
    """Add an offset of its own to each modality, except where it is 0 (outside the brain).

    Attributes:
        offset: In units of the stored image.
    """

    kind: Literal["shift_intensity"] = "shift_intensity"
    probability: Probability = 0.15
    offset: Limits = (-0.1, 0.1)

    def apply(self, image: Image, label: LabelMap, rng: np.random.Generator) -> Patch:
        """The shifted patch, in place."""
        if rng.random() < self.probability:
            np.add(image, _per_modality(self.offset, image, rng), out=image, where=image != 0)
        return image, label


class Contrast(Config):
    """Move every intensity away from or towards its modality's mean, within the old range."""

    kind: Literal["contrast"] = "contrast"
    probability: Probability = 0.15
    factor: Factors = (0.75, 1.25)

    def apply(self, image: Image, label: LabelMap, rng: np.random.Generator) -> Patch:
        """The patch with other contrast, in place."""
        if rng.random() < self.probability:
            for modality, factor in zip(image, rng.uniform(*self.factor, len(image)), strict=True):
                low, high, mean = modality.min(), modality.max(), modality.mean()
                modality -= mean
                modality *= np.float32(factor)
                modality += mean
                np.clip(modality, low, high, out=modality)
        return image, label


class Gamma(Config):
    """Raise each modality, scaled to 0..1, to a power of its own and scale it back.

    The modality's range stays; one that is constant stays as it is.
    """

    kind: Literal["gamma"] = "gamma"
    probability: Probability = 0.15
    exponent: Factors = (0.7, 1.5)

    def apply(self, image: Image, label: LabelMap, rng: np.random.Generator) -> Patch:
        """The patch with other brightness curves, in place."""
        if rng.random() < self.probability:
            for modality, power in zip(image, rng.uniform(*self.exponent, len(image)), strict=True):
                low, extent = modality.min(), np.ptp(modality)
                if extent > 0:
                    modality -= low
                    modality /= extent
                    np.power(modality, np.float32(power), out=modality)
                    modality *= extent
                    modality += low
        return image, label


class BiasField(Config):
    """Add a smooth field of its own to each modality, except where it is 0 (outside the brain).

    Receiver coils make one side of a head brighter than the other. On normalised intensities such
    a slowly varying gain is, to first order, a slowly varying offset.

    Attributes:
        strength: Largest offset anywhere, in units of the stored image; drawn from 0 to this.
        knots: Random values per axis between which the field is interpolated linearly.
    """

    kind: Literal["bias_field"] = "bias_field"
    probability: Probability = 0.3
    strength: float = Field(default=0.5, gt=0)
    knots: int = Field(default=3, ge=2, le=16)

    def apply(self, image: Image, label: LabelMap, rng: np.random.Generator) -> Patch:
        """The patch with other shading, in place."""
        if rng.random() < self.probability:
            for modality in image:
                values = rng.uniform(-1, 1, (1, 1, *(self.knots,) * 3)).astype(np.float32)
                values *= np.float32(rng.uniform(0, self.strength))
                field = torch.nn.functional.interpolate(
                    torch.from_numpy(values), modality.shape, mode="trilinear", align_corners=True
                )
                np.add(modality, field[0, 0].numpy(), out=modality, where=modality != 0)
        return image, label


class RotateScale(Config):
    """Turn by small angles about all three axes and zoom, about the middle of the patch.

    Images are interpolated linearly, label maps take the nearest voxel; what comes from outside the
    patch is 0.

    Attributes:
        degrees: Largest angle about each axis.
        factor: Limits of the zoom; above 1 the tumour becomes larger.
    """

    kind: Literal["rotate_scale"] = "rotate_scale"
    probability: Probability = 0.2
    degrees: float = Field(default=15.0, ge=0, le=180)
    factor: Factors = (0.85, 1.2)

    def apply(self, image: Image, label: LabelMap, rng: np.random.Generator) -> Patch:
        """The resampled patch."""
        if rng.random() >= self.probability:
            return image, label
        angles = np.deg2rad(rng.uniform(-self.degrees, self.degrees, 3))
        matrix = _rotation(angles) / rng.uniform(*self.factor)
        grid = _sampling_grid(matrix, label.shape)
        turned = _sample(np.ascontiguousarray(image), grid, "bilinear")
        labels = _sample(np.ascontiguousarray(label, dtype=np.float32)[None], grid, "nearest")
        return turned, labels[0].astype(np.uint8)


class ModalityDropout(Config):
    """Take away each modality independently, but never all: 0 everywhere, as outside the brain.

    A network trained so can segment cases of which a modality was not acquired. Belongs last in the
    list, as ``gaussian_noise`` would fill the empty modality again. Where the draws would leave
    none, one drawn at random stays. Source: ModDrop (Neverova et al. 2016).

    Attributes:
        probability: Per modality; 1 leaves one modality in every patch.
    """

    kind: Literal["modality_dropout"] = "modality_dropout"
    probability: Probability = 0.15

    def apply(self, image: Image, label: LabelMap, rng: np.random.Generator) -> Patch:
        """The patch without the drawn modalities, in place."""
        missing = rng.random(len(image)) < self.probability
        if missing.all():
            missing[rng.integers(len(image))] = False
        image[missing] = 0
        return image, label


AugmentStep = Annotated[
    Flip
    | Rotate90
    | GaussianNoise
    | ScaleIntensity
    | ShiftIntensity
    | Contrast
    | Gamma
    | BiasField
    | RotateScale
    | ModalityDropout,
    Field(discriminator="kind"),
]
"""One of the steps, told apart by ``kind``."""

DEFAULT_AUGMENT: tuple[AugmentStep, ...] = (
    Flip(),
    Rotate90(),
    GaussianNoise(),
    ScaleIntensity(),
    ShiftIntensity(),
)
"""Flips, right-angled turns and noise as often used on BraTS, and slight changes of intensity."""


def augment(
    image: Image, label: LabelMap, steps: Sequence[AugmentStep], rng: np.random.Generator
) -> None:
    """Apply the steps in order and leave the result in ``image`` and ``label``.

    Args:
        image: Shape ``(4, X, Y, Z)``.
        label: Shape ``(X, Y, Z)``.
    """
    new_image, new_label = image, label
    for step in steps:
        new_image, new_label = step.apply(new_image, new_label, rng)
    if new_image is not image:
        np.copyto(image, new_image)  # NumPy copies through a buffer where the two overlap
        np.copyto(label, new_label)


def _per_modality(limits: tuple[float, float], image: Image, rng: np.random.Generator) -> Image:
    """One uniform draw per modality, shaped to broadcast over the image."""
    return rng.uniform(*limits, len(image)).astype(np.float32).reshape(-1, 1, 1, 1)


def _rotation(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotation about X, then Y, then Z by the given angles (radians)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    rotation: npt.NDArray[np.float64] = about_z @ about_y @ about_x
    return rotation


def _sampling_grid(matrix: npt.NDArray[np.float64], shape: Sequence[int]) -> torch.Tensor:
    """Where each voxel of the result comes from, as ``grid_sample`` wants it.

    Shape ``(1, X, Y, Z, 3)``: coordinates in the order Z, Y, X, scaled so that -1 and 1 are the
    centres of the first and last voxel. Made by NumPy, whose result does not depend on threads.
    """
    centre = [(side - 1) / 2 for side in shape]
    x, y, z = np.ogrid[tuple(slice(-c, c + 0.5) for c in centre)]
    grid = np.empty((1, *shape, 3), dtype=np.float32)
    for axis in range(3):
        to_unit = 1 / max(centre[axis], 0.5)
        row = matrix[axis] * to_unit
        grid[0, ..., 2 - axis] = row[0] * x + row[1] * y + row[2] * z
    return torch.from_numpy(grid)


def _sample(volumes: Image, grid: torch.Tensor, mode: str) -> Image:
    """Volumes of shape ``(C, X, Y, Z)`` taken at the grid's places, 0 outside."""
    found = torch.nn.functional.grid_sample(
        torch.from_numpy(volumes)[None], grid, mode=mode, padding_mode="zeros", align_corners=True
    )
    sampled: Image = found[0].numpy()
    return sampled
