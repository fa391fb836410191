"""Exponential moving average of weights (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Average of a model's state: ``average = decay * average + (1 - decay) * weights``.

    Whole-number buffers (step counters) are copied, not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.average = {name: value.detach().clone() for name, value in _state(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's weights; once per optimizer step."""
        for name, value in _state(model).items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - self.decay)
            else:
                self.average[name].copy_(value)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Let the model carry the average for a while."""
        kept = {name: value.detach().clone() for name, value in _state(model).items()}
        model.load_state_dict(self.average)
        try:
            yield
        finally:
            model.load_state_dict(kept)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The average, as a checkpoint keeps it."""
        return self.average

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's average."""
        for name, value in state.items():
            self.average[name].copy_(value)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.state_dict())
