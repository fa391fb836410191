"""PyTorch's ``scaled_dot_product_attention``, without expanding bias or mask.

Windows of a shifted layer fall into at most eight kinds by the borders they touch (four in 2-D),
and all of a kind share one mask. One call per kind therefore broadcasts an ``(H, N, N)`` bias over
its windows, where a single call would need ``(G, H, N, N)``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend

from bratsml.models.attention.windows import APART, Windows, dense_bias, places_on


def attend(qkv: Tensor, table: Tensor, windows: Windows, dropout: float = 0.0) -> Tensor:
    """See :func:`bratsml.models.attention.reference.attend`."""
    bias = dense_bias(table, windows)
    if not windows.is_shifted:
        return _attend_one_kind(qkv, bias, dropout)
    side = places_on(windows, qkv).side
    crossing = side[:, None] ^ side[None, :]

    def by_kind(some: Tensor, axis: int, border: int) -> Tensor:
        """Attention of ``(images, *grid, N, 3, H, D)``, split at the last window of each axis."""
        if axis == len(windows.grid):
            apart = (crossing & border != 0).to(bias.dtype)
            mask = bias - apart * APART if border else bias
            flat = some.flatten(0, axis)
            return _attend_one_kind(flat, mask, dropout).unflatten(0, some.shape[: axis + 1])
        if not windows.shift[axis]:
            return by_kind(some, axis + 1, border)
        inner = windows.grid[axis] - 1
        at_seam = by_kind(some.narrow(axis + 1, inner, 1), axis + 1, border | 1 << axis)
        if inner == 0:
            return at_seam
        inside = by_kind(some.narrow(axis + 1, 0, inner), axis + 1, border)
        return torch.cat([inside, at_seam], dim=axis + 1)

    images = qkv.unflatten(0, (-1, *windows.grid))
    return by_kind(images, 0, 0).flatten(0, len(windows.grid))


def _attend_one_kind(qkv: Tensor, bias: Tensor, dropout: float) -> Tensor:
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    found = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias.to(qkv.dtype)[None], dropout_p=dropout
    )
    return found.transpose(1, 2).flatten(2)


def kernel_of(qkv: Tensor, table: Tensor, dropout: float = 0.0) -> str:
    """Which of PyTorch's kernels such a call takes, e.g. ``efficient_attention``."""
    tokens, heads = qkv.shape[1], qkv.shape[3]
    # Stand-ins without history: asking must leave nothing behind for the backward pass.
    query, key, value = qkv.detach().requires_grad_(qkv.requires_grad).permute(2, 0, 3, 1, 4)
    learns = table.requires_grad and torch.is_grad_enabled()
    bias = qkv.detach().new_empty((1, heads, tokens, tokens)).requires_grad_(learns)
    choice = torch._fused_sdp_choice(query, key, value, attn_mask=bias, dropout_p=dropout)
    return str(SDPBackend(choice).name).lower()
