"""Sums of losses whose weights may change while training goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Weight:
    """A term's weight: ``first`` until epoch ``start``, ``last`` after ``length`` epochs more."""

    last: float
    first: float
    start: float = 0.0
    length: float = 0.0

    def at(self, epoch: float) -> float:
        """The weight at that moment, linear in between."""
        if epoch >= self.start + self.length:
            return self.last
        if epoch <= self.start:
            return self.first
        return self.first + (self.last - self.first) * (epoch - self.start) / self.length


class WeightedSum(nn.Module):
    """Sum of losses, each times its weight; a term that weighs nothing is not computed.

    Attributes:
        epoch: Epochs trained, fractions included; :func:`set_epoch` moves it. Infinite, as it is
            outside training, all weights are the last ones.
    """

    def __init__(self, terms: Sequence[tuple[float | Weight, nn.Module]]) -> None:
        super().__init__()
        self.weights = [w if isinstance(w, Weight) else Weight(w, w) for w, _ in terms]
        self.terms = nn.ModuleList(term for _, term in terms)
        self.epoch = math.inf

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar in float32."""
        values = [
            weight.at(self.epoch) * term(logits, target)
            for weight, term in zip(self.weights, self.terms, strict=True)
            if weight.at(self.epoch) != 0
        ]
        if not values:  # between two ramps; still something to go backward from
            return logits.float().sum() * 0
        total: Tensor = values[0]
        for value in values[1:]:
            total = total + value
        return total


def set_epoch(loss: nn.Module, epoch: float) -> None:
    """Tell every sum within a loss how far training is."""
    for module in loss.modules():
        if isinstance(module, WeightedSum):
            module.epoch = epoch
