"""Gradient checkpointing of existing blocks, without renaming their parameters."""

from __future__ import annotations

from types import MethodType
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_in_backward(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    """Let the outermost blocks of those kinds drop their activations and recompute them.

    Outputs, gradients and the state dict stay the same; while evaluating nothing changes. A copy of
    the network recomputes its own blocks.
    """
    for child in network.children():
        if isinstance(child, kinds):
            # a method, not a closure: copying binds it to the copy
            child.forward = MethodType(_forward, child)
        else:
            recompute_in_backward(child, kinds)


def _forward(block: nn.Module, *inputs: Any) -> Any:
    """Stands for the ``forward`` of the block's class."""
    plain = MethodType(type(block).forward, block)
    if block.training:
        return checkpoint(plain, *inputs, use_reentrant=False)
    return plain(*inputs)
