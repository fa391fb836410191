"""One optimizer step: several patches forward and backward, then the update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from bratsml.training.ema import WeightAverage


@dataclass
class TrainStep:
    """What turns batches into an update of the weights.

    Attributes:
        model, optimizer: Set up by ``fabric``.
        loss: ``(logits, target) -> scalar``.
        target_of: Label-map values ``(N, 1, X, Y, Z)`` to what the loss compares with.
        clip_norm: Largest norm of the gradient; ``None`` does not clip.
        average: Moved after every update, when there is one.
    """

    fabric: Fabric
    model: Any
    optimizer: Any
    loss: nn.Module
    target_of: Callable[[Tensor], Tensor]
    clip_norm: float | None
    channels_last: bool
    average: WeightAverage | None

    def __call__(self, batches: Sequence[Any]) -> float | None:
        """Update the weights once.

        Args:
            batches: Accumulated batches (``image``, ``label``), equally weighted.

        Returns:
            Mean loss, or ``None`` when loss or gradient were not finite and nothing was updated.
        """
        total = torch.zeros((), device=self.fabric.device)
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with self.fabric.no_backward_sync(self.model, enabled=not last):
                value = self._loss(batch) / len(batches)
                self.fabric.backward(value)
            total += value.detach()
        mean = float(total)
        if not (torch.isfinite(total) and self._gradient_is_fine()):
            self.optimizer.zero_grad(set_to_none=True)
            return None
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.model)
        return mean

    def _loss(self, batch: Any) -> Tensor:
        image = batch.image.to(self.fabric.device, non_blocking=True)
        label = batch.label.to(self.fabric.device, non_blocking=True)
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last_3d)
        value: Tensor = self.loss(self.model(image), self.target_of(label))
        return value

    def _gradient_is_fine(self) -> bool:
        """Clip, and tell whether the gradient is finite.

        With a loss scaler overflows are expected: the scaler skips those updates by itself.
        """
        scaled = getattr(self.fabric.strategy.precision, "scaler", None) is not None
        if self.clip_norm is not None:
            norm = self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=self.clip_norm, error_if_nonfinite=False
            )
            assert norm is not None
        else:
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
        return scaled or bool(torch.isfinite(norm))
