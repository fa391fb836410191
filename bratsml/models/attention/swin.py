"""Putting an attention backend into MONAI's Swin networks, and telling which one ran.

The modules keep their parameters, buffers and names, so weights load and save as MONAI's own: only
the class of a module changes, and with it its ``forward``.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from monai.networks.nets.swin_unetr import (
    BasicLayer,
    SwinTransformerBlock,
    WindowAttention,
    get_window_size,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from bratsml.models.attention import sdpa
from bratsml.models.attention.backends import NAMES, attend_by, require
from bratsml.models.attention.select import choose
from bratsml.models.attention.windows import Windows


class Record:
    """Which variant ran where; one for a network and all copies of it."""

    def __init__(self, requested: str) -> None:
        self.requested = requested
        self.ran: dict[tuple[str, str], str] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Record:
        """The copy that an average of weights is kept in still belongs to the same run."""
        return self


class BackendAttention(WindowAttention):
    """MONAI's window attention with the softmax part done by a backend."""

    backend: str
    place: str
    record: Record

    def forward(self, x: Tensor, mask: Windows | None) -> Tensor:
        """Tokens ``(B, N, C)`` of windows to the same.

        Args:
            mask: How the images were cut, for shifted windows; ``None`` for the others.
        """
        windows = mask or Windows.unshifted((x.shape[1],), tuple(self.window_size))
        dropout = float(self.attn_drop.p) if self.training else 0.0
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        table = self.relative_position_bias_table
        variant = self.backend
        if variant == "auto":
            variant = choose(qkv, table, windows, dropout)
        # Neither a compiler nor a tracer of shapes runs anything.
        if not (torch.compiler.is_compiling() or isinstance(qkv, FakeTensor)):
            training = _wants_gradient(qkv, table)
            require(self.backend, qkv.device, training=training, dropout=dropout)
            self._note(variant, qkv, table, dropout)
        out = attend_by(variant)(qkv, table, windows, dropout)
        return cast(Tensor, self.proj_drop(self.proj(out)))

    def _note(self, variant: str, qkv: Tensor, table: Tensor, dropout: float) -> None:
        mode = "training" if _wants_gradient(qkv, table) else "inference"
        if (mode, self.place) not in self.record.ran:
            if variant == "sdpa":
                variant = f"sdpa ({sdpa.kernel_of(qkv, table, dropout)})"
            self.record.ran[mode, self.place] = variant


class WindowedLayer(BasicLayer):
    """MONAI's stage of Swin blocks; hands them :class:`Windows` where MONAI makes a mask.

    MONAI's mask is float32 of ``(G, N, N)``: 470 MB for the first stage at 128 cubed.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Channels first in and out, ``(images, C, *sides)``."""
        sides = tuple(x.shape[2:])
        size, shift = get_window_size(sides, self.window_size, self.shift_size)
        grid = tuple(-(-side // length) for side, length in zip(sides, size, strict=True))
        windows = Windows(tuple(size), tuple(self.window_size), tuple(shift), grid)
        x = x.movedim(1, -1)
        for block in self.blocks:
            x = block(x, windows)
        if self.downsample is not None:
            x = self.downsample(x)
        return x.movedim(-1, 1)


def use_backend(network: nn.Module, name: str) -> None:
    """Let every window attention of a network be computed by that backend, in place.

    ``reference`` leaves MONAI's modules as they are.
    """
    assert name in NAMES
    if name == "reference":
        return
    record = Record(name)
    stages = [module for module in network.modules() if isinstance(module, BasicLayer)]
    for number, stage in enumerate(stages, start=1):
        stage.__class__ = WindowedLayer
        for block in cast("list[SwinTransformerBlock]", stage.blocks):
            attention = cast(BackendAttention, block.attn)
            attention.__class__ = BackendAttention
            attention.backend, attention.record = name, record
            attention.place = f"{number} shifted" if any(block.shift_size) else f"{number}"


def describe_attention(model: nn.Module) -> dict[str, str]:
    """What computed the window attention of a network so far, for a run's parameters.

    ``attention.training`` and ``attention.inference`` say what ran in which stages, once they have;
    for PyTorch's own function also which of its kernels. Empty for networks without such attention.
    """
    modules = [module for module in model.modules() if isinstance(module, WindowAttention)]
    if not modules:
        return {}
    if not isinstance(modules[0], BackendAttention):
        return {"attention.requested": "reference", "attention.kernel": "MONAI's own"}
    record = modules[0].record
    told = {"attention.requested": record.requested}
    for mode in ("training", "inference"):
        places: dict[str, list[str]] = {}
        for (ran_in, place), variant in sorted(record.ran.items()):
            if ran_in == mode:
                places.setdefault(variant, []).append(place)
        if len(places) == 1:
            told[f"attention.{mode}"] = next(iter(places))
        elif places:
            told[f"attention.{mode}"] = "; ".join(
                f"{variant} in stages {', '.join(names)}" for variant, names in places.items()
            )
    return told


def _wants_gradient(qkv: Tensor, table: Tensor) -> bool:
    return torch.is_grad_enabled() and (qkv.requires_grad or table.requires_grad)
