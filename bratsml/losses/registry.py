"""The table of losses and their settings."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import nn

from bratsml.config import Config
from bratsml.losses.boundary import Boundary, Kind
from bratsml.losses.cross_entropy import CrossEntropy
from bratsml.losses.dice import Dice
from bratsml.losses.focal import Focal
from bratsml.losses.generalized_dice import GeneralizedDice, Weighting
from bratsml.losses.tversky import Tversky
from bratsml.losses.weighted_sum import Weight, WeightedSum


class _DiceSettings(Config):
    """What every loss with a Dice term can set.

    Attributes:
        batch: One Dice over the whole batch instead of one per case.
        squared: Squares in the denominator (Milletari et al. 2016).
        smooth: Added to numerator and denominator.
    """

    batch: bool = False
    squared: bool = False
    smooth: float = Field(default=1e-5, gt=0)


class DiceConfig(_DiceSettings):
    """Soft Dice loss alone."""

    kind: Literal["dice"] = "dice"

    def build(self, exclusive: bool) -> nn.Module:
        """A module ``(logits, target) -> scalar``."""
        return Dice(exclusive, self.batch, self.squared, self.smooth)


class CrossEntropyConfig(Config):
    """Cross-entropy alone: binary for regions, categorical for classes."""

    kind: Literal["cross_entropy"] = "cross_entropy"

    def build(self, exclusive: bool) -> nn.Module:
        """A module ``(logits, target) -> scalar``."""
        return CrossEntropy(exclusive)


class DiceCrossEntropyConfig(_DiceSettings):
    """Weighted sum of Dice and cross-entropy (Isensee et al. 2021)."""

    kind: Literal["dice_ce"] = "dice_ce"
    dice_weight: float = Field(default=1.0, ge=0)
    ce_weight: float = Field(default=1.0, ge=0)

    def build(self, exclusive: bool) -> nn.Module:
        """A module ``(logits, target) -> scalar``."""
        dice = Dice(exclusive, self.batch, self.squared, self.smooth)
        return WeightedSum(((self.dice_weight, dice), (self.ce_weight, CrossEntropy(exclusive))))


class GeneralizedDiceConfig(Config):
    """Generalised Dice loss (Sudre et al. 2017).

    Attributes:
        weighting: Of a region: ``1 / volume**2``, ``1 / volume`` or 1.
        batch: One Dice over the whole batch instead of one per case.
        smooth: Added to numerator and denominator.
    """

    kind: Literal["generalized_dice"] = "generalized_dice"
    weighting: Weighting = "square"
    batch: bool = False
    smooth: float = Field(default=1e-5, gt=0)

    def build(self, exclusive: bool) -> nn.Module:
        """A module ``(logits, target) -> scalar``."""
        return GeneralizedDice(exclusive, self.weighting, self.batch, self.smooth)


class FocalConfig(Config):
    """Focal loss (Lin et al. 2017).

    Attributes:
        gamma: 0 is the cross-entropy; the higher, the less easy voxels count.
        alpha: Weight of foreground against ``1 - alpha`` of background; ``None`` for none.
    """

    kind: Literal["focal"] = "focal"
    gamma: float = Field(default=2.0, ge=0)
    alpha: float | None = Field(default=None, gt=0, lt=1)

    def build(self, exclusive: bool) -> nn.Module:
        """A module ``(logits, target) -> scalar``."""
        return Focal(exclusive, self.gamma, self.alpha)


class _TverskySettings(Config):
    """What both Tversky losses can set.

    Attributes:
        alpha: Weight of false positives.
        beta: Weight of false negatives.
        batch: One index over the whole batch instead of one per case.
        smooth: Added to numerator and denominator.
    """

    alpha: float = Field(default=0.4, ge=0)
    beta: float = Field(default=0.6, ge=0)
    batch: bool = False
    smooth: float = Field(default=1e-5, gt=0)


class TverskyConfig(_TverskySettings):
    """Tversky loss (Salehi et al. 2017)."""

    kind: Literal["tversky"] = "tversky"

    def build(self, exclusive: bool) -> nn.Module:
        """A module ``(logits, target) -> scalar``."""
        return Tversky(exclusive, self.alpha, self.beta, 1.0, self.batch, self.smooth)


class FocalTverskyConfig(_TverskySettings):
    """Focal Tversky loss (Abraham & Khan 2019): the Tversky loss to the power ``1 / gamma``."""

    kind: Literal["focal_tversky"] = "focal_tversky"
    gamma: float = Field(default=4 / 3, ge=1)

    def build(self, exclusive: bool) -> nn.Module:
        """A module ``(logits, target) -> scalar``."""
        return Tversky(exclusive, self.alpha, self.beta, self.gamma, self.batch, self.smooth)


class BoundaryConfig(Config):
    """Error times distance from the boundary, in voxels; best as a late term of a sum.

    Attributes:
        distance: ``surface`` (Kervadec et al. 2019) or ``hausdorff`` (Karimi & Salcudean 2019).
        power: Of the distance, for ``hausdorff``.
    """

    kind: Literal["boundary"] = "boundary"
    distance: Kind = "surface"
    power: float = Field(default=2.0, gt=0)

    def build(self, exclusive: bool) -> nn.Module:
        """A module ``(logits, target) -> scalar``."""
        return Boundary(exclusive, self.distance, self.power)


_Single = (
    DiceConfig
    | CrossEntropyConfig
    | DiceCrossEntropyConfig
    | GeneralizedDiceConfig
    | FocalConfig
    | TverskyConfig
    | FocalTverskyConfig
    | BoundaryConfig
)


class TermConfig(Config):
    """One loss of a sum.

    Attributes:
        weight: What it is multiplied with, at the end if it is ramped.
        first_weight: With it, the weight is this one until the epoch ``ramp_start`` and moves to
            ``weight`` over ``ramp_epochs``; falling ramps are possible.
    """

    loss: Annotated[_Single, Field(discriminator="kind")]
    weight: float = Field(default=1.0, ge=0)
    first_weight: float | None = Field(default=None, ge=0)
    ramp_start: float = Field(default=0.0, ge=0)
    ramp_epochs: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _ramp_is_whole(self) -> TermConfig:
        if self.first_weight is None and (self.ramp_start or self.ramp_epochs):
            raise ValueError("a ramp needs first_weight")
        return self

    def weighting(self) -> Weight:
        """The weight over time."""
        first = self.weight if self.first_weight is None else self.first_weight
        return Weight(self.weight, first, self.ramp_start, self.ramp_epochs)


class SumConfig(Config):
    """Weighted sum of losses, with ramps."""

    kind: Literal["sum"] = "sum"
    terms: tuple[TermConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _something_is_minimised(self) -> SumConfig:
        moments = {0.0, math.inf}
        for term in self.terms:
            moments |= {term.ramp_start, term.ramp_start + term.ramp_epochs}
        for epoch in moments:
            if not any(term.weighting().at(epoch) > 0 for term in self.terms):
                raise ValueError("at every epoch one term at least needs a weight above 0")
        return self

    def build(self, exclusive: bool) -> nn.Module:
        """A module ``(logits, target) -> scalar``."""
        return WeightedSum([(term.weighting(), term.loss.build(exclusive)) for term in self.terms])


LossConfig = Annotated[_Single | SumConfig, Field(discriminator="kind")]
