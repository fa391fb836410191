"""The table of attention backends, and which of them can run where."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from bratsml.errors import ConfigError
from bratsml.models.attention import flex, reference, sdpa, triton_op
from bratsml.models.attention.windows import Windows

AttentionName = Literal["auto", "reference", "sdpa", "flex", "triton"]
NAMES: tuple[str, ...] = get_args(AttentionName)

Attend = Callable[[Tensor, Tensor, Windows, float], Tensor]
"""``(qkv, table, windows, dropout) -> output``; see :func:`reference.attend`."""

_ATTEND: dict[str, Attend] = {
    "reference": reference.attend,
    "sdpa": sdpa.attend,
    "flex": flex.attend,
}


def variants(name: str) -> list[str]:
    """The ways in which one backend can be run, each a name that :func:`attend_by` takes."""
    if name == "triton":
        return [f"triton {t.own}x{t.loop}x{t.warps}" for t in triton_op.TILES]
    return [name]


@functools.cache
def attend_by(variant: str) -> Attend:
    """The function of a backend or variant."""
    name, _, cut = variant.partition(" ")
    if name != "triton":
        return _ATTEND[name]
    if not cut:
        return triton_op.attend
    tiles = triton_op.Tiles(*map(int, cut.split("x")))
    return functools.partial(triton_op.attend, tiles=tiles)


def obstacle(
    name: str, device: torch.device, *, training: bool = True, dropout: float = 0.0
) -> str:
    """Why a backend cannot do that there, or ``""``.

    Args:
        training: Whether gradients are wanted.
        dropout: Share of attention weights dropped.
    """
    if name == "triton":
        return triton_op.obstacle(device)
    if name == "flex" and dropout and training:
        return "it cannot drop attention weights"
    if name == "flex" and training and device.type == "cpu":
        return "it has no backward pass on a CPU"
    return ""


def require(
    name: str, device: torch.device, *, training: bool = True, dropout: float = 0.0
) -> None:
    """Refuse a backend that cannot run there.

    Raises:
        ConfigError: Saying why, and what to use instead.
    """
    if name == "auto":
        return
    if reason := obstacle(name, device, training=training, dropout=dropout):
        raise ConfigError(
            f"model.attention={name} cannot be used here: {reason}; use auto, or sdpa"
        )
