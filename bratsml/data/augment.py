"""Random changes to a training patch, chosen by config as a list of steps in order.

Every draw comes from the generator that is passed in, the sample's own, so a sample is the same in
any process. What was drawn can be applied at once, by a loader's worker, or later on the device of
the batch (:func:`draw_changes`, :func:`apply_changes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from bratsml.data.augment_base import (
    AugmentStepConfig,
    Change,
    Form,
    Image,
    LabelMap,
    Patch,
    one_thread,
)
from bratsml.data.augment_intensity import (
    BiasField,
    Contrast,
    Gamma,
    GaussianNoise,
    ModalityDropout,
    ScaleIntensity,
    ShiftIntensity,
)
from bratsml.data.augment_resolution import GaussianBlur, LowResolution
from bratsml.data.augment_spatial import Flip, Rotate90, RotateScale

__all__ = [
    "DEFAULT_AUGMENT",
    "AugmentStep",
    "BiasField",
    "Change",
    "Contrast",
    "Flip",
    "Gamma",
    "GaussianBlur",
    "GaussianNoise",
    "Image",
    "LabelMap",
    "LowResolution",
    "ModalityDropout",
    "Patch",
    "Rotate90",
    "RotateScale",
    "ScaleIntensity",
    "ShiftIntensity",
    "WithinBrain",
    "apply_changes",
    "augment",
    "draw_changes",
]

IntensityStep = Annotated[
    GaussianNoise
    | GaussianBlur
    | ScaleIntensity
    | ShiftIntensity
    | Contrast
    | LowResolution
    | Gamma
    | BiasField
    | ModalityDropout,
    Field(discriminator="kind"),
]
"""A step that moves no voxel."""


class WithinBrain(AugmentStepConfig):
    """Intensity steps after which what was outside the brain is 0 again.

    Outside is where every modality was 0 before the steps.
    """

    kind: Literal["within_brain"] = "within_brain"
    steps: tuple[IntensityStep, ...] = Field(min_length=1)

    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """See :class:`AugmentStepConfig`."""
        changes = draw_changes(self.steps, form, rng)
        return Within(changes) if changes else None


@dataclass(frozen=True)
class Within(Change):
    """Changes made inside the brain alone."""

    changes: tuple[Change, ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Change`."""
        outside = (image == 0).all(dim=0)
        for change in self.changes:
            image, label = change.apply(image, label)
        return image.masked_fill_(outside, 0), label


AugmentStep = Annotated[
    Flip
    | Rotate90
    | RotateScale
    | GaussianNoise
    | GaussianBlur
    | ScaleIntensity
    | ShiftIntensity
    | Contrast
    | LowResolution
    | Gamma
    | BiasField
    | ModalityDropout
    | WithinBrain,
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


def draw_changes(
    steps: Sequence[AugmentStepConfig], form: Form, rng: np.random.Generator
) -> tuple[Change, ...]:
    """What the steps do to a patch of that form, in order; those that do nothing are left out."""
    drawn = [step.draw(form, rng) for step in steps]
    return tuple(change for change in drawn if change is not None)


def apply_changes(image: Tensor, label: Tensor, changes: Sequence[Change]) -> None:
    """Apply changes in order and leave the result in ``image`` and ``label``.

    On a CPU one thread does it, and the result is the same bit for bit in every process. Another
    device rounds differently; where a voxel lies midway between two, its label may be the other's.

    Args:
        image: Shape ``(M, X, Y, Z)`` float32.
        label: Shape ``(X, Y, Z)`` uint8, on the same device.
    """
    new_image, new_label = image, label
    with torch.no_grad(), one_thread():
        for change in changes:
            new_image, new_label = change.apply(new_image, new_label)
        if new_image is not image:
            image.copy_(new_image)
        if new_label is not label:
            label.copy_(new_label)


def augment(
    image: Image, label: LabelMap, steps: Sequence[AugmentStep], rng: np.random.Generator
) -> None:
    """Draw the steps' changes and apply them; the result is left in ``image`` and ``label``.

    Args:
        image: Shape ``(M, X, Y, Z)``.
        label: Shape ``(X, Y, Z)``.
    """
    modalities, x, y, z = image.shape
    changes = draw_changes(steps, (modalities, x, y, z), rng)
    apply_changes(torch.from_numpy(image), torch.from_numpy(label), changes)
