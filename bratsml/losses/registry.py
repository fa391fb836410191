"""The table of losses and their settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from bratsml.config import Config
from bratsml.losses.cross_entropy import CrossEntropy
from bratsml.losses.dice import Dice


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


LossConfig = Annotated[
    DiceConfig | CrossEntropyConfig | DiceCrossEntropyConfig, Field(discriminator="kind")
]


class WeightedSum(nn.Module):
    """Sum of losses, each times its weight."""

    def __init__(self, terms: tuple[tuple[float, nn.Module], ...]) -> None:
        super().__init__()
        self.weights = [weight for weight, _ in terms]
        self.terms = nn.ModuleList(term for _, term in terms)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar in float32."""
        values = [
            w * term(logits, target) for w, term in zip(self.weights, self.terms, strict=True)
        ]
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total
