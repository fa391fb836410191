"""Generalised Dice loss (Sudre et al. 2017): small regions count as much as large ones."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bratsml.losses.probabilities import foreground

Weighting = Literal["square", "simple", "uniform"]
_POWERS = {"square": 2, "simple": 1, "uniform": 0}


class GeneralizedDice(nn.Module):
    """One minus a Dice whose sums run over all channels, each weighted by its volume.

    ``1 - (2 sum_c w_c sum(p t) + s) / (sum_c w_c sum(p + t) + s)``, mean over cases unless
    ``batch``. The weights are divided by the largest of them, which changes the value only through
    ``s``: undivided, ``1 / volume**2`` of a tumour of some thousand voxels is less than any usual
    ``s``, and the loss hardly moves. A channel without a voxel in the target takes the largest
    weight of the others.

    Args:
        exclusive: As in :class:`~bratsml.losses.dice.Dice`; background is left out.
        weighting: ``1 / volume**2``, ``1 / volume`` or 1.
        batch: Sum over the batch before the ratio.
        smooth: ``s``.
    """

    def __init__(self, exclusive: bool, weighting: Weighting, batch: bool, smooth: float) -> None:
        super().__init__()
        self.exclusive = exclusive
        self.power = _POWERS[weighting]
        self.axes = (0, 2, 3, 4) if batch else (2, 3, 4)
        self.smooth = smooth

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar in float32."""
        with torch.autocast(logits.device.type, enabled=False):
            p, t = foreground(logits, target, self.exclusive)
            volume = t.sum(self.axes)
            weights = self._weights(volume)
            overlap = (weights * (p * t).sum(self.axes)).sum(-1)
            sizes = (weights * (p.sum(self.axes) + volume)).sum(-1)
            return (1 - (2 * overlap + self.smooth) / (sizes + self.smooth)).mean()

    def _weights(self, volume: Tensor) -> Tensor:
        """Smallest volume over volume, to the power: 1 for the smallest and for empty channels."""
        present = volume > 0
        smallest = volume.where(present, torch.inf).amin(-1, keepdim=True)
        return torch.where(present, smallest / volume.clamp_min(1), 1.0) ** self.power
