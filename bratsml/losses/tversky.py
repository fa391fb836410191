"""Tversky loss (Salehi et al. 2017) and its focal form (Abraham & Khan 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bratsml.losses.probabilities import foreground

_TINY = 1e-7


class Tversky(nn.Module):
    """Mean over channels (and cases unless ``batch``) of ``(1 - T)**(1 / gamma)``.

    ``T = (TP + s) / (TP + alpha FP + beta FN + s)`` with soft counts: the Dice where both weights
    are .5, and kinder to sensitivity than to precision where ``beta`` is the larger one.

    Args:
        exclusive: As in :class:`~bratsml.losses.dice.Dice`; background is left out.
        alpha: Weight of false positives.
        beta: Weight of false negatives.
        gamma: 1 is the Tversky loss; above it, regions done badly push harder than in proportion.
        batch: Sum over the batch before the ratio.
        smooth: ``s``.
    """

    def __init__(
        self,
        exclusive: bool,
        alpha: float,
        beta: float,
        gamma: float,
        batch: bool,
        smooth: float,
    ) -> None:
        super().__init__()
        self.exclusive = exclusive
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.axes = (0, 2, 3, 4) if batch else (2, 3, 4)
        self.smooth = smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar in float32."""
        with torch.autocast(logits.device.type, enabled=False):
            p, t = foreground(logits, target, self.exclusive)
            hit = (p * t).sum(self.axes)
            wrong = self.alpha * (p * (1 - t)).sum(self.axes)
            missed = self.beta * ((1 - p) * t).sum(self.axes)
            index = (hit + self.smooth) / (hit + wrong + missed + self.smooth)
            loss = 1 - index
            if self.gamma != 1:
                # a root's gradient at 0 is infinite
                loss = loss.clamp_min(_TINY) ** (1 / self.gamma)
            return loss.mean()
