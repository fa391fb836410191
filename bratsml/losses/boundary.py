"""Losses that weigh a wrong voxel by its distance from the boundary."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bratsml.losses.distance import distance_to
from bratsml.losses.probabilities import foreground

Kind = Literal["surface", "hausdorff"]


class Boundary(nn.Module):
    """Mean over voxels, channels and cases of error times distance, in voxels.

    ``surface`` (Kervadec et al. 2019): ``|p - t| d``, with ``d`` the distance to the other side of
    the target's boundary. It is theirs plus a constant, so that the truth costs 0.
    ``hausdorff`` (Karimi & Salcudean 2019): ``(p - t)**2 (d_target**a + d_prediction**a)``, the
    prediction cut at one half.

    Where a target is empty or full it has no boundary, and every voxel counts as one voxel away.
    Made to be one term of a sum, ramped up late: alone it says little about where to begin.

    Args:
        exclusive: As in :class:`~bratsml.losses.dice.Dice`; background is left out.
        kind: Which of the two.
        power: ``a``, for ``hausdorff``.
    """

    def __init__(self, exclusive: bool, kind: Kind, power: float) -> None:
        super().__init__()
        self.exclusive = exclusive
        self.kind = kind
        self.power = power

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar in float32."""
        with torch.autocast(logits.device.type, enabled=False):
            p, t = foreground(logits, target, self.exclusive)
            weight = _distance_to_other_side(t > 0.5, without_boundary=1.0)
            if self.kind == "surface":
                return ((p - t).abs() * weight).mean()
            predicted = _distance_to_other_side(p.detach() > 0.5, without_boundary=0.0)
            weight = weight**self.power + predicted**self.power
            return ((p - t) ** 2 * weight).mean()


@torch.no_grad()
def _distance_to_other_side(mask: Tensor, without_boundary: float) -> Tensor:
    distance = torch.where(mask, distance_to(~mask), distance_to(mask))
    return torch.where(distance.isinf(), without_boundary, distance)
