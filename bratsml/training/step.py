"""One optimizer step: several patches forward and backward, then the update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from bratsml.training.ema import WeightAverage

Outcome = Literal["updated", "overflow", "not finite"]


@dataclass(frozen=True)
class StepResult:
    """What one step did.

    Attributes:
        loss: Mean over the patches.
        num_patches: Patches in all its batches.
        outcome: ``overflow`` is the scaler's ordinary search for the largest scale that fp16 can
            hold; after it, as when loss or gradient are ``not finite``, the weights are unchanged.
    """

    loss: float
    num_patches: int
    outcome: Outcome


@dataclass
class TrainStep:
    """What turns batches into an update of the weights.

    Attributes:
        model, optimizer: Set up by ``fabric``.
        loss: ``(logits, target) -> scalar``; takes whatever the network gives while training.
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

    def __call__(self, batches: Sequence[Any]) -> StepResult:
        """Update the weights once, or leave them alone when loss or gradient are not finite.

        Args:
            batches: Accumulated batches; every patch weighs the same. ``to`` gives one on a device,
                where it has ``image`` and ``label``.
        """
        num_patches = sum(len(batch.image) for batch in batches)
        total = torch.zeros((), device=self.fabric.device)
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            with self.fabric.no_backward_sync(self.model, enabled=not last):
                value = self._loss(batch) * (len(batch.image) / num_patches)
                self.fabric.backward(value)
            total += value.detach()
        # one wait for the device, when everything has been queued
        loss, norm = torch.stack((total, self._clip())).tolist()
        outcome = self._outcome(loss, norm)
        if outcome == "updated":
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.model)
        elif self.scaler is not None:
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(loss, num_patches, outcome)

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The loss scaler of fp16."""
        scaler: torch.amp.GradScaler | None
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return scaler

    def _loss(self, batch: Any) -> Tensor:
        here = batch.to(self.fabric.device)
        image = here.image
        if self.channels_last:
            image = image.contiguous(memory_format=torch.channels_last_3d)
        value: Tensor = self.loss(self.model(image), self.target_of(here.label))
        return value

    def _clip(self) -> Tensor:
        """Unscale and clip the gradient; its norm before clipping.

        By hand, since Fabric does not clip for optimizers that can unscale by themselves, and the
        fused ones can.
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer.optimizer)
        weights = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in weights])
        if self.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(weights, self.clip_norm, norm)
        return norm

    def _outcome(self, loss: float, norm: float) -> Outcome:
        if not math.isfinite(loss):
            return "not finite"
        if math.isfinite(norm):
            return "updated"
        can_go_lower = self.scaler is not None and self.scaler.get_scale() > 1.0
        return "overflow" if can_go_lower else "not finite"
