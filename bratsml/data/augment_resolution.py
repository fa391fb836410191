"""Steps that take detail away: blur, and acquisition at a lower resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import AfterValidator
from torch import Tensor
from torch.nn import functional

from bratsml.data.augment_base import Change, Factors, Form, PerModality, Probability

REACH = 4.0
"""Standard deviations after which a Gaussian is cut off, as in SciPy."""


class GaussianBlur(PerModality):
    """Blur with a Gaussian whose width is drawn for each modality and axis.

    Attributes:
        sigma: Limits of the standard deviation, in voxels.
    """

    kind: Literal["gaussian_blur"] = "gaussian_blur"
    probability: Probability = 0.2
    modality_probability: Probability = 0.5
    sigma: Factors = (0.5, 1.0)

    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """See :class:`AugmentStepConfig`."""
        chosen = self.chosen(form, rng)
        widths = rng.uniform(*self.sigma, (len(chosen), 3)).tolist()
        return Blurred(chosen, tuple(tuple(row) for row in widths)) if chosen else None


@dataclass(frozen=True)
class Blurred(Change):
    """Some modalities blurred; the borders are mirrored, the voxel at the border included.

    Attributes:
        sigmas: For each modality one per axis.
    """

    modalities: tuple[int, ...]
    sigmas: tuple[tuple[float, ...], ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Change`."""
        for modality, sigmas in zip(self.modalities, self.sigmas, strict=True):
            for axis, sigma in enumerate(sigmas):
                if image.shape[axis + 1] > 1:
                    image[modality] = _blurred(image[modality], axis, sigma)
        return image, label


def _blurred(volume: Tensor, axis: int, sigma: float) -> Tensor:
    """A volume blurred along one axis, as a sum of shifted copies."""
    reach = int(REACH * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    weights /= weights[0] + 2 * weights[1:].sum()
    side = volume.shape[axis]
    places = torch.arange(-reach, side + reach, device=volume.device).remainder(2 * side)
    padded = volume.index_select(axis, torch.minimum(places, 2 * side - 1 - places))
    result = padded.narrow(axis, reach, side) * float(weights[0])
    for shift in range(1, reach + 1):
        for start in (reach - shift, reach + shift):
            result.add_(padded.narrow(axis, start, side), alpha=float(weights[shift]))
    return result


def _at_most_one(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[1] > 1:
        raise ValueError("a lower resolution has a factor of at most 1")
    return limits


class LowResolution(PerModality):
    """Sample a modality more coarsely and bring it back to its grid, as if acquired with less.

    Down by the nearest voxel, up linearly, by one factor along all axes.

    Attributes:
        factor: Limits of the coarse side's share of the fine one.
    """

    kind: Literal["low_resolution"] = "low_resolution"
    probability: Probability = 0.25
    modality_probability: Probability = 0.5
    factor: Annotated[Factors, AfterValidator(_at_most_one)] = (0.5, 1.0)

    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """See :class:`AugmentStepConfig`."""
        chosen = self.chosen(form, rng)
        factors = rng.uniform(*self.factor, len(chosen)).tolist()
        return Coarsened(chosen, tuple(factors)) if chosen else None


@dataclass(frozen=True)
class Coarsened(Change):
    """Some modalities at a lower resolution."""

    modalities: tuple[int, ...]
    factors: tuple[float, ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Change`."""
        shape = torch.Size(image.shape[1:])
        for modality, factor in zip(self.modalities, self.factors, strict=True):
            coarse = [max(1, math.floor(side * factor + 0.5)) for side in shape]
            small = functional.interpolate(
                image[None, modality, None], coarse, mode="nearest-exact"
            )
            image[modality] = functional.interpolate(
                small, shape, mode="trilinear", align_corners=False
            )[0, 0]
        return image, label
