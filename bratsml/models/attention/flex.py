"""PyTorch's FlexAttention: bias and shift mask written into the score.

Compiled by inductor, one kernel per shape, which takes seconds to minutes at first use. It cannot
drop attention weights, has no backward pass on a CPU, and sums the gradient of the bias table with
atomic additions, so that it differs in the last bits from run to run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import flex_attention

from bratsml.models.attention.windows import APART, Windows, places_on

SMALLEST_HEAD = 16
"""Channels of a head that the compiled kernel can multiply; smaller ones are padded with zeros."""

MOST_SHAPES = 64
"""Shapes that are compiled before PyTorch would give up; a network needs some sixteen."""

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def attend(
    qkv: Tensor, table: Tensor, windows: Windows, dropout: float = 0.0, compiled: bool = True
) -> Tensor:
    """See :func:`bratsml.models.attention.reference.attend`.

    Args:
        compiled: Fuse into one kernel; without, every score is held in memory (for tests).
    """
    assert dropout == 0.0, "FlexAttention cannot drop attention weights"
    channels = qkv.shape[-1]
    room = max(SMALLEST_HEAD, 1 << (channels - 1).bit_length()) - channels
    query, key, value = functional.pad(qkv, (0, room)).permute(2, 0, 3, 1, 4).unbind(0)
    run: Callable[..., Tensor] = _compiled() if compiled else cast(Any, flex_attention)
    with torch._dynamo.config.patch(recompile_limit=MOST_SHAPES):
        found = run(
            query, key, value, score_mod=_score_mod(qkv, table, windows), scale=channels**-0.5
        )
    return found[..., :channels].transpose(1, 2).flatten(2)


def _score_mod(qkv: Tensor, table: Tensor, windows: Windows) -> ScoreMod:
    places = places_on(windows, qkv)
    place, side, border = places.place, places.side, places.border
    center, num_windows, by_head = windows.center, len(border), table.t().contiguous()

    def with_bias(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + by_head[h, place[i] - place[j] + center]

    def with_bias_and_mask(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        apart = (side[i] ^ side[j]) & border[b % num_windows]
        return with_bias(score, b, h, i, j) - torch.where(apart != 0, APART, 0.0)

    return with_bias_and_mask if windows.is_shifted else with_bias


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention)
