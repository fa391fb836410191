"""Gradient checkpointing of existing blocks, without renaming their parameters."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_in_backward(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Let the outermost blocks of those kinds drop their activations and recompute them.

    Outputs, gradients and the state dict stay the same; while evaluating nothing changes.
    """
    for child in network.children():
        if isinstance(child, kinds):
            _wrap(child)
        else:
            recompute_in_backward(child, kinds)


def _wrap(block: nn.Module) -> None:
    plain = block.forward

    def forward(*inputs: Any) -> Any:
        if block.training:
            return checkpoint(plain, *inputs, use_reentrant=False)
        return plain(*inputs)

    block.forward = forward
