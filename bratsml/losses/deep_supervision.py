"""Deep supervision (Lee et al. 2015): a loss at several resolutions, coarser ones counting less."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class DeepSupervision(nn.Module):
    """A loss that also takes a list of logits, one per resolution, the finest first.

    ``sum_i w_i loss(logits_i, target_i)`` with ``w_i`` proportional to ``1 / 2**i`` and a sum of
    one, so that the value is of the size of the plain loss. ``target_i`` is the target at the
    resolution of ``logits_i``, taken at the voxel nearest to each centre. A single tensor of
    logits, as networks give while evaluating, costs what the plain loss says.

    Args:
        loss: ``(logits, target) -> scalar``.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """Scalar in float32."""
        if isinstance(logits, Tensor):
            value: Tensor = self.loss(logits, target)
            return value
        levels = [
            weight * self.loss(level, nearest(target, level.shape[2:]))
            for weight, level in zip(level_weights(len(logits)), logits, strict=True)
        ]
        return torch.stack(levels).sum()


def level_weights(count: int) -> list[float]:
    """``1 / 2**i`` for each of that many resolutions, divided by their sum."""
    raw = [0.5**level for level in range(count)]
    return [weight / sum(raw) for weight in raw]


def nearest(target: Tensor, shape: Sequence[int]) -> Tensor:
    """A target ``(N, C, X, Y, Z)`` of any type at a coarser ``shape``, without mixing voxels."""
    for axis, (fine, coarse) in enumerate(zip(target.shape[2:], shape, strict=True), start=2):
        if fine == coarse:
            continue
        centres = (torch.arange(coarse, device=target.device) + 0.5) * (fine / coarse)
        target = target.index_select(axis, centres.long())
    return target
