"""Steps that move voxels: mirroring, right-angled turns, free turns and zoom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from bratsml.data.augment_base import AugmentStepConfig, Change, Factors, Form, Probability

THIN_RATIO = 3
"""Times by which the longest side must exceed a thin one, as in nnU-Net."""


class Flip(AugmentStepConfig):
    """Mirror along each of the axes, independently.

    Attributes:
        probability: Per axis.
        axes: Among 0, 1, 2 for X (left-right), Y, Z.
    """

    kind: Literal["flip"] = "flip"
    probability: Probability = 0.5
    axes: tuple[Literal[0, 1, 2], ...] = (0, 1, 2)

    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """See :class:`AugmentStepConfig`."""
        chosen = tuple(axis for axis in self.axes if rng.random() < self.probability)
        return Mirrored(chosen) if chosen else None


@dataclass(frozen=True)
class Mirrored(Change):
    """Mirrored along the axes."""

    axes: tuple[int, ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Change`."""
        return image.flip([axis + 1 for axis in self.axes]), label.flip(list(self.axes))


class Rotate90(AugmentStepConfig):
    """Turn by 90, 180 or 270 degrees in a plane drawn among three.

    In a plane whose two sides differ it is always 180 degrees, so the shape stays.
    """

    kind: Literal["rotate90"] = "rotate90"
    probability: Probability = 0.5

    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """See :class:`AugmentStepConfig`."""
        if rng.random() >= self.probability:
            return None
        plane = ((0, 1), (0, 2), (1, 2))[int(rng.integers(3))]
        turns = int(rng.integers(1, 4))
        same_sides = form[plane[0] + 1] == form[plane[1] + 1]
        return Turned(plane, turns if same_sides else 2)


@dataclass(frozen=True)
class Turned(Change):
    """Turned by quarters in a plane of two axes."""

    plane: tuple[int, int]
    quarters: int

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Change`."""
        a, b = self.plane
        return image.rot90(self.quarters, (a + 1, b + 1)), label.rot90(self.quarters, (a, b))


class RotateScale(AugmentStepConfig):
    """Turn about all three axes and zoom, about the middle of the patch, in one resampling.

    Images are interpolated linearly, label maps take the nearest voxel; what comes from outside the
    patch is 0. Patches of a few slices, less than a third as deep as they are wide, are turned and
    zoomed within their slices alone (as nnU-Net does with thick slices).

    Attributes:
        probability: Of a turn, and unless ``scale_probability`` is set of a zoom with it.
        scale_probability: Of a zoom, whether or not there is a turn.
        degrees: Largest angle about each axis.
        factor: Limits of the zoom; above 1 the tumour becomes larger.
    """

    kind: Literal["rotate_scale"] = "rotate_scale"
    probability: Probability = 0.2
    scale_probability: Probability | None = None
    degrees: float = Field(default=15.0, ge=0, le=180)
    factor: Factors = (0.85, 1.2)

    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """See :class:`AugmentStepConfig`."""
        turn = rng.random() < self.probability
        zoom = turn
        if self.scale_probability is not None:
            zoom = rng.random() < self.scale_probability
        if not turn and not zoom:
            return None
        angles = rng.uniform(-self.degrees, self.degrees, 3) if turn else np.zeros(3)
        factor = rng.uniform(*self.factor) if zoom else 1.0
        thin = [axis for axis in range(3) if THIN_RATIO * form[axis + 1] < max(form[1:])]
        for axis in thin:
            angles[[other for other in range(3) if other != axis]] = 0
        matrix = _rotation(np.deg2rad(angles)) / factor
        for axis in thin:
            matrix[axis, axis] = 1
        return Resampled(tuple(tuple(float(value) for value in row) for row in matrix))


@dataclass(frozen=True)
class Resampled(Change):
    """Each voxel taken from where the matrix sends its place, both seen from the middle."""

    matrix: tuple[tuple[float, ...], ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Change`."""
        grid = _sampling_grid(self.matrix, label.shape, image.device)
        labels = _sample(label[None].float(), grid, "nearest")
        return _sample(image, grid, "bilinear"), labels[0].to(label.dtype)


def _rotation(angles: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rotation about X, then Y, then Z by the given angles (radians)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    rotation: npt.NDArray[np.float64] = about_z @ about_y @ about_x
    return rotation


def _sampling_grid(
    matrix: Sequence[Sequence[float]], shape: Sequence[int], device: torch.device
) -> Tensor:
    """Where each voxel of the result comes from, as ``grid_sample`` wants it.

    Shape ``(1, X, Y, Z, 3)``: coordinates in the order Z, Y, X, scaled so that -1 and 1 are the
    centres of the first and last voxel.
    """
    centre = [(side - 1) / 2 for side in shape]
    x, y, z = (
        torch.arange(side, device=device, dtype=torch.float32).sub_(middle)
        for side, middle in zip(shape, centre, strict=True)
    )
    grid = torch.empty((1, *shape, 3), dtype=torch.float32, device=device)
    for axis in range(3):
        a, b, c = (value / max(centre[axis], 0.5) for value in matrix[axis])
        plane = (a * x)[:, None] + b * y
        torch.add(plane[..., None], c * z, out=grid[0, ..., 2 - axis])
    return grid


def _sample(volumes: Tensor, grid: Tensor, mode: str) -> Tensor:
    """Volumes of shape ``(M, X, Y, Z)`` taken at the grid's places, 0 outside."""
    return torch.nn.functional.grid_sample(
        volumes[None], grid, mode=mode, padding_mode="zeros", align_corners=True
    )[0]
