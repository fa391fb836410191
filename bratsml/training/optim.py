"""Optimizers and their settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from bratsml.config import Config


class OptimConfig(Config):
    """One optimizer for all weights.

    Attributes:
        kind: ``adam`` (Kingma & Ba 2015), ``adamw`` (Loshchilov & Hutter 2019) or ``sgd``.
        lr: Highest learning rate; the schedule scales it.
        weight_decay: Added to the gradient by ``adam`` and ``sgd``, decoupled in ``adamw``.
        betas: Decay of the two moments of ``adam`` and ``adamw``.
        momentum: Of ``sgd``; ``nesterov`` with it.
        fused: One kernel for all weights; ``None`` wherever the device has it.
    """

    kind: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    nesterov: bool = True
    fused: bool | None = None

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer over those weights."""
        weights = list(parameters)
        fused = self.fused
        if fused is None:
            fused = all(w.is_floating_point() and w.device.type in ("cpu", "cuda") for w in weights)
        shared: dict[str, Any] = {
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "fused": fused,
        }
        if self.kind == "sgd":
            nesterov = self.nesterov and self.momentum > 0
            return torch.optim.SGD(weights, momentum=self.momentum, nesterov=nesterov, **shared)
        cls = torch.optim.Adam if self.kind == "adam" else torch.optim.AdamW
        return cls(weights, betas=self.betas, **shared)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
