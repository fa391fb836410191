"""Dice loss (Milletari et al. 2016), in float32 whatever the logits are."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import Tensor, nn


class Dice(nn.Module):
    """One minus the soft Dice, mean over channels (and cases unless ``batch``).

    ``1 - (2 sum(p t) + s) / (sum(p) + sum(t) + s)``, with ``p**2`` and ``t**2`` in the denominator
    when ``squared``. An empty target gives a loss near 0 only when nothing is predicted.

    Args:
        exclusive: Channels are softmax classes and targets channel numbers ``(N, 1, X, Y, Z)``;
            background (channel 0) is left out. Otherwise sigmoid and targets ``(N, C, X, Y, Z)``.
        batch: Sum over the batch before the ratio, as if it were one large case.
        smooth: ``s``.
    """

    def __init__(self, exclusive: bool, batch: bool, squared: bool, smooth: float) -> None:
        super().__init__()
        self.loss = DiceLoss(
            include_background=not exclusive,
            to_onehot_y=exclusive,
            sigmoid=not exclusive,
            softmax=exclusive,
            squared_pred=squared,
            smooth_nr=smooth,
            smooth_dr=smooth,
            batch=batch,
        )

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar in float32."""
        with torch.autocast(logits.device.type, enabled=False):
            value: Tensor = self.loss(logits.float(), target)
        return value
