"""MONAI's own computation of window attention, with every score in memory."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from bratsml.models.attention.windows import Windows, dense_bias, shift_mask


def attend(qkv: Tensor, table: Tensor, windows: Windows, dropout: float = 0.0) -> Tensor:
    """Softmax attention within windows.

    With float64 arguments it is what the other backends are held against.

    Args:
        qkv: ``(B, N, 3, H, D)``, the windows of an image one after another.
        table: Relative-position biases ``(T, H)``.
        windows: How the images were cut.
        dropout: Share of the attention weights that are dropped, 0 to 1.

    Returns:
        ``(B, N, H * D)`` in the type of ``qkv``.
    """
    weights = attention_weights(qkv, table, windows)
    weights = functional.dropout(weights, dropout).to(qkv.dtype)
    values = qkv[:, :, 2].transpose(1, 2)
    return (weights @ values).transpose(1, 2).flatten(2)


def attention_weights(qkv: Tensor, table: Tensor, windows: Windows) -> Tensor:
    """Softmax of the scores, ``(B, H, N, N)``, every row summing to 1."""
    query, key, _ = qkv.permute(2, 0, 3, 1, 4)
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
    scores = scores + dense_bias(table, windows)
    if windows.is_shifted:
        mask = shift_mask(windows, table)
        per_image = scores.unflatten(0, (-1, len(mask)))
        scores = (per_image + mask[:, None]).flatten(0, 1)
    return scores.softmax(dim=-1)
