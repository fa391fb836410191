"""What the augmentation steps share: chance is drawn first, the patch is changed afterwards.

A step, from the configuration, draws a *change* from the sample's own generator; the change has
nothing left to chance and can be applied on any device, with the same result but for rounding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from bratsml.config import Config

Image = npt.NDArray[np.float32]
LabelMap = npt.NDArray[np.uint8]
Patch = tuple[Image, LabelMap]
Form = tuple[int, int, int, int]
"""Shape of an image: modalities, X, Y, Z."""
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


class Change(ABC):
    """What one step does to one patch; small, picklable, and the same on every device."""

    @abstractmethod
    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """The changed patch, in place or anew.

        Args:
            image: ``(M, X, Y, Z)`` float32.
            label: ``(X, Y, Z)`` uint8, on the same device.
        """


class AugmentStepConfig(Config, ABC):
    """Settings of one step."""

    @abstractmethod
    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """What to do to a patch of that form; ``None`` when it is left alone."""

    def apply(self, image: Image, label: LabelMap, rng: np.random.Generator) -> Patch:
        """Draw and apply at once; the patch is changed in place or anew."""
        modalities, x, y, z = image.shape
        change = self.draw((modalities, x, y, z), rng)
        if change is None:
            return image, label
        new_image, new_label = change.apply(torch.from_numpy(image), torch.from_numpy(label))
        return new_image.numpy(), new_label.numpy()


class PerModality(AugmentStepConfig):
    """A step that treats each modality for itself.

    Attributes:
        probability: That the step happens to a patch at all.
        modality_probability: That it then happens to a modality.
    """

    probability: Probability = 0.15
    modality_probability: Probability = 1.0

    def chosen(self, form: Form, rng: np.random.Generator) -> tuple[int, ...]:
        """The modalities it happens to; empty for none."""
        if rng.random() >= self.probability:
            return ()
        if self.modality_probability == 1:
            return tuple(range(form[0]))
        return tuple(
            int(m) for m in np.flatnonzero(rng.random(form[0]) < self.modality_probability)
        )


def draw_factors(
    limits: tuple[float, float], count: int, two_sided: bool, rng: np.random.Generator
) -> tuple[float, ...]:
    """Uniform draws between the limits.

    Args:
        two_sided: Half of the draws lie below 1 and half above, however far the limits reach on
            either side, as nnU-Net draws them. Without 1 between the limits it has no effect.
    """
    low, high = limits
    if not two_sided or not low < 1 < high:
        return tuple(float(value) for value in rng.uniform(low, high, count))
    below = rng.random(count) < 0.5
    values = np.where(below, rng.uniform(low, 1, count), rng.uniform(1, high, count))
    return tuple(float(value) for value in values)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: how work is cut up decides the last bit of a result.

    So a patch is the same bit for bit in a worker process, which has one thread, and outside.
    """
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
