"""Steps that change intensities voxel by voxel, and the one that takes modalities away."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from bratsml.data.augment_base import (
    AugmentStepConfig,
    Change,
    Factors,
    Form,
    Limits,
    PerModality,
    Probability,
    draw_factors,
)


def _std(value: float | tuple[float, float]) -> float | tuple[float, float]:
    if isinstance(value, tuple):
        if not 0 <= value[0] <= value[1] or value[1] == 0:
            raise ValueError("the lower limit comes first, is at least 0, and the upper above 0")
    elif value <= 0:
        raise ValueError("must be greater than 0")
    return value


class GaussianNoise(AugmentStepConfig):
    """Add independent normal noise to every voxel.

    Attributes:
        std: In units of the stored image (standard deviations inside the brain for ``native``); of
            two limits one value is drawn for all modalities.
    """

    kind: Literal["gaussian_noise"] = "gaussian_noise"
    probability: Probability = 0.2
    std: Annotated[float | tuple[float, float], AfterValidator(_std)] = 0.1

    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """See :class:`AugmentStepConfig`."""
        if rng.random() >= self.probability:
            return None
        std = float(rng.uniform(*self.std)) if isinstance(self.std, tuple) else self.std
        return Noisy(std, int(rng.integers(2**63)))


@dataclass(frozen=True)
class Noisy(Change):
    """With noise; its numbers are drawn on the CPU, so they are the same for any device."""

    std: float
    seed: int

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Change`."""
        noise = np.random.default_rng(self.seed).standard_normal(image.shape, dtype=np.float32)
        return image.add_(torch.from_numpy(noise).to(image.device), alpha=self.std), label


class ScaleIntensity(PerModality):
    """Multiply each modality by a factor of its own.

    Attributes:
        two_sided: Half of the factors below 1 and half above.
    """

    kind: Literal["scale_intensity"] = "scale_intensity"
    factor: Factors = (0.75, 1.25)
    two_sided: bool = False

    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """See :class:`AugmentStepConfig`."""
        chosen = self.chosen(form, rng)
        factors = draw_factors(self.factor, len(chosen), self.two_sided, rng)
        return Scaled(chosen, factors) if chosen else None


@dataclass(frozen=True)
class _OfModalities(Change):
    """One value for each of some modalities."""

    modalities: tuple[int, ...]
    values: tuple[float, ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Change`."""
        for modality, value in zip(self.modalities, self.values, strict=True):
            self.change(image[modality], value)
        return image, label

    def change(self, volume: Tensor, value: float) -> None:
        """Change one modality ``(X, Y, Z)`` in place."""
        raise NotImplementedError


class Scaled(_OfModalities):
    """Multiplied."""

    def change(self, volume: Tensor, value: float) -> None:
        """See :class:`_OfModalities`."""
        volume.mul_(value)


class ShiftIntensity(PerModality):
    """Add an offset of its own to each modality, except where it is 0 (outside the brain).

    Attributes:
        offset: In units of the stored image.
    """

    kind: Literal["shift_intensity"] = "shift_intensity"
    offset: Limits = (-0.1, 0.1)

    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """See :class:`AugmentStepConfig`."""
        chosen = self.chosen(form, rng)
        offsets = draw_factors(self.offset, len(chosen), False, rng)
        return Shifted(chosen, offsets) if chosen else None


class Shifted(_OfModalities):
    """An offset added inside the brain."""

    def change(self, volume: Tensor, value: float) -> None:
        """See :class:`_OfModalities`."""
        volume.add_(volume != 0, alpha=value)


class Contrast(PerModality):
    """Move every intensity away from or towards its modality's mean, within the old range.

    Attributes:
        two_sided: Half of the factors below 1 and half above.
    """

    kind: Literal["contrast"] = "contrast"
    factor: Factors = (0.75, 1.25)
    two_sided: bool = False

    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """See :class:`AugmentStepConfig`."""
        chosen = self.chosen(form, rng)
        factors = draw_factors(self.factor, len(chosen), self.two_sided, rng)
        return Stretched(chosen, factors) if chosen else None


class Stretched(_OfModalities):
    """With other contrast."""

    def change(self, volume: Tensor, value: float) -> None:
        """See :class:`_OfModalities`."""
        low, high = volume.aminmax()
        mean = volume.mean()
        volume.sub_(mean).mul_(value).add_(mean).clamp_(low, high)


class Gamma(PerModality):
    """Raise each modality, scaled to 0..1, to a power of its own and scale it back.

    The modality's range stays; one that is constant stays as it is.

    Attributes:
        inverted: Change the modality's negative instead, so that dark and bright swap roles.
        keep_mean_and_std: Afterwards give the modality its old mean and standard deviation instead
            of its old range.
        two_sided: Half of the exponents below 1 and half above.
    """

    kind: Literal["gamma"] = "gamma"
    exponent: Factors = (0.7, 1.5)
    inverted: bool = False
    keep_mean_and_std: bool = False
    two_sided: bool = False

    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """See :class:`AugmentStepConfig`."""
        chosen = self.chosen(form, rng)
        if not chosen:
            return None
        powers = draw_factors(self.exponent, len(chosen), self.two_sided, rng)
        return Curved(chosen, powers, self.inverted, self.keep_mean_and_std)


@dataclass(frozen=True)
class Curved(_OfModalities):
    """With another brightness curve."""

    inverted: bool
    keep_mean_and_std: bool

    def change(self, volume: Tensor, value: float) -> None:
        """See :class:`_OfModalities`."""
        if self.inverted:
            volume.neg_()
        mean = volume.mean()
        std = _spread(volume - mean) if self.keep_mean_and_std else None
        low, high = volume.aminmax()
        extent = high - low
        volume.sub_(low).div_(extent.clamp(min=torch.finfo(torch.float32).tiny))
        volume.pow_(value).mul_(extent).add_(low)
        if std is not None:
            volume.sub_(volume.mean())
            volume.mul_(std / _spread(volume).clamp(min=1e-7)).add_(mean)
        if self.inverted:
            volume.neg_()


def _spread(centred: Tensor) -> Tensor:
    """Standard deviation of values whose mean is 0; many times faster than ``std``."""
    return torch.linalg.vector_norm(centred) / math.sqrt(centred.numel())


class BiasField(AugmentStepConfig):
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

    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """See :class:`AugmentStepConfig`."""
        if rng.random() >= self.probability:
            return None
        values = np.empty((form[0], *(self.knots,) * 3), dtype=np.float32)
        for modality in values:
            modality[...] = rng.uniform(-1, 1, modality.shape)
            modality *= np.float32(rng.uniform(0, self.strength))
        return Shaded(values)


@dataclass(frozen=True, eq=False)
class Shaded(Change):
    """A field added inside the brain.

    Attributes:
        knots: ``(M, K, K, K)``.
    """

    knots: npt.NDArray[np.float32]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Change`."""
        field = torch.nn.functional.interpolate(
            torch.from_numpy(self.knots)[None].to(image.device),
            torch.Size(image.shape[1:]),
            mode="trilinear",
            align_corners=True,
        )[0]
        return image.add_(field.mul_(image != 0)), label


class ModalityDropout(AugmentStepConfig):
    """Take away each modality independently, but never all: 0 everywhere, as outside the brain.

    A network trained so can segment cases of which a modality was not acquired. Belongs last in the
    list, as ``gaussian_noise`` would fill the empty modality again. Where the draws would leave
    none, one drawn at random stays. Source: ModDrop (Neverova et al. 2016).

    Attributes:
        probability: Per modality; 1 leaves one modality in every patch.
    """

    kind: Literal["modality_dropout"] = "modality_dropout"
    probability: Probability = 0.15

    def draw(self, form: Form, rng: np.random.Generator) -> Change | None:
        """See :class:`AugmentStepConfig`."""
        missing = rng.random(form[0]) < self.probability
        if missing.all():
            missing[rng.integers(form[0])] = False
        gone = tuple(int(modality) for modality in np.flatnonzero(missing))
        return Emptied(gone) if gone else None


@dataclass(frozen=True)
class Emptied(Change):
    """Without some modalities."""

    modalities: tuple[int, ...]

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Change`."""
        for modality in self.modalities:
            image[modality].zero_()
        return image, label
