"""Cross-entropy: binary per region, or over exclusive classes; in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class CrossEntropy(nn.Module):
    """Mean over voxels (and regions) of the negative log-likelihood in nats.

    Args:
        exclusive: Softmax classes with targets ``(N, 1, X, Y, Z)`` of channel numbers; otherwise
            sigmoid regions with targets ``(N, C, X, Y, Z)``.
    """

    def __init__(self, exclusive: bool) -> None:
        super().__init__()
        self.exclusive = exclusive

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar in float32."""
        with torch.autocast(logits.device.type, enabled=False):
            if self.exclusive:
                return functional.cross_entropy(logits.float(), target[:, 0].long())
            return functional.binary_cross_entropy_with_logits(logits.float(), target.float())
