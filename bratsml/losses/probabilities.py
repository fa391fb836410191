"""Logits and targets of either output as probabilities and masks, channel by channel."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def foreground(logits: Tensor, target: Tensor, exclusive: bool) -> tuple[Tensor, Tensor]:
    """Probabilities and masks ``(N, C, X, Y, Z)`` in float32, without the background class.

    Args:
        exclusive: Softmax over classes with targets ``(N, 1, X, Y, Z)`` of channel numbers, of
            which channel 0 is background; otherwise sigmoid and targets shaped as the logits.
    """
    if not exclusive:
        return logits.float().sigmoid(), target.float()
    classes = logits.shape[1]
    masks = functional.one_hot(target[:, 0].long(), classes).movedim(-1, 1)
    return logits.float().softmax(1)[:, 1:], masks[:, 1:].float()
