"""The two sets of weights of a schedule-free optimizer (Defazio et al. 2024).

Gradients are taken at ``y``, the average ``x`` is what was learnt; the network carries one of them
at a time, and the optimizer knows which.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class ScheduleFreeAverage:
    """Stands where :class:`~bratsml.training.ema.WeightAverage` does, without weights of its own.

    Between the moments when the average is asked for, the network carries ``y``. Statistics that
    batch norm gathers belong to ``y``; instance and layer norm have none.

    Args:
        optimizer: One of the ``schedulefree`` package, not wrapped.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        optimizer.train()

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Let the model carry ``x`` for a while; ``y`` comes back bit for bit."""
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        kept = [weight.detach().clone() for weight in weights]
        self.optimizer.eval()
        try:
            yield
        finally:
            self.optimizer.train()
            # the optimizer's own way back rounds, and a resumed training does not go that way
            with torch.no_grad():
                for weight, value in zip(weights, kept, strict=True):
                    weight.copy_(value)

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's state with ``x`` in it, a copy."""
        with self.applied(model):
            return {name: value.detach().clone() for name, value in model.state_dict().items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing: ``x`` follows from ``y`` and from what the optimizer keeps."""
