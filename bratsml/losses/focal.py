"""Focal loss (Lin et al. 2017): cross-entropy that looks away from what is already right."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_TINY = 1e-12


class Focal(nn.Module):
    """Mean over voxels (and regions) of ``-a (1 - q)**gamma ln q``, ``q`` the truth's probability.

    With ``gamma`` 0 and no ``alpha`` it is the cross-entropy. MONAI's value for classes is this one
    divided by the number of classes, since it averages over the zeros of the one-hot target too.

    Args:
        exclusive: As in :class:`~bratsml.losses.cross_entropy.CrossEntropy`.
        gamma: How strongly easy voxels are looked away from.
        alpha: Weight ``a`` of foreground, ``1 - alpha`` that of background; ``None`` for 1 and 1.
    """

    def __init__(self, exclusive: bool, gamma: float, alpha: float | None) -> None:
        super().__init__()
        self.exclusive = exclusive
        self.gamma = gamma
        self.alpha = alpha

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar in float32."""
        with torch.autocast(logits.device.type, enabled=False):
            if self.exclusive:
                truth = target[:, 0].long()
                nats = functional.cross_entropy(logits.float(), truth, reduction="none")
            else:
                truth = target.float()
                nats = functional.binary_cross_entropy_with_logits(
                    logits.float(), truth, reduction="none"
                )
            # the gradient of x**gamma at 0 is infinite for gamma < 1
            missed = (-torch.expm1(-nats)).clamp_min(_TINY)
            value = missed**self.gamma * nats
            if self.alpha is not None:
                value = value * torch.where(truth > 0, self.alpha, 1 - self.alpha)
            return value.mean()
