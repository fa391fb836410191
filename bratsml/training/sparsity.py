"""Pruning: the smallest weights of convolutions and linear layers set to zero, and held there.

Magnitudes (L1) over the whole network (Han et al. 2015) or in one layer. Biases, norm layers,
slopes and tables of positions are left alone. Zeros save space in a compressed file; kernels for
dense weights compute with them as with any other number, so nothing becomes faster.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

COMPRESSION_LEVEL = 6


def prunable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name and kernel of every convolution and linear layer, in the network's order.

    A kernel that several layers share is there once.
    """
    found: dict[str, nn.Parameter] = {}
    for name, module in model.named_modules():
        if not isinstance(module, _ConvNd | nn.Linear):
            continue
        weight = module.weight
        if isinstance(weight, nn.Parameter) and not _is_in(weight, found):
            found[f"{name}.weight" if name else "weight"] = weight
    return found


@torch.no_grad()
def prune_smallest(weights: list[nn.Parameter], share: float) -> None:
    """Set the smallest magnitudes among all those weights together to zero, in place.

    Args:
        weights: Of any shapes and devices.
        share: Of their numbers, 0 to 1, rounded to a whole one; of equal magnitudes the first go.
    """
    sizes = [weight.numel() for weight in weights]
    magnitudes = torch.cat([weight.detach().abs().flatten().float().cpu() for weight in weights])
    count = round(share * magnitudes.numel())
    kept = torch.ones(magnitudes.numel(), dtype=torch.bool)
    kept[torch.argsort(magnitudes, stable=True)[:count]] = False
    for weight, mask in zip(weights, kept.split(sizes), strict=True):
        weight.mul_(mask.view(weight.shape).to(weight.device))


def hold_zeros(model: nn.Module, pruned: Mapping[str, Tensor]) -> int:
    """Keep at zero, in later training, every prunable weight that is zero in a pruned state dict.

    Its gradient is zero from here on, and with it every optimizer's step and average: momentum
    starts at nothing and weight decay shrinks nothing. The weights themselves are not touched.

    Returns:
        Number of weights held.
    """
    held = 0
    for name, weight in prunable_weights(model).items():
        moving = pruned[name] != 0
        held += int((~moving).sum())
        if weight.requires_grad and not moving.all():
            weight.register_hook(_Masked(moving))
    return held


def share_of_zeros(model: nn.Module) -> float:
    """Share of the prunable numbers that are zero; NaN when there is none."""
    weights = list(prunable_weights(model).values())
    zeros = sum(int((weight == 0).sum()) for weight in weights)
    total = sum(weight.numel() for weight in weights)
    return zeros / total if total else float("nan")


def compressed_megabytes(model: nn.Module) -> float:
    """Size of all weights and buffers as a compressed file holds them, in MB (1e6 bytes)."""
    packer, num_bytes = zlib.compressobj(COMPRESSION_LEVEL), 0
    for tensor in model.state_dict().values():
        plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        num_bytes += len(packer.compress(plain.numpy().tobytes()))
    return (num_bytes + len(packer.flush())) / 1e6


class _Masked:
    """A gradient that is zero where the weight was pruned."""

    def __init__(self, moving: Tensor) -> None:
        self.moving = moving

    def __call__(self, gradient: Tensor) -> Tensor:
        # where, not a product: an infinite gradient times zero would be NaN
        return torch.where(self.moving.to(gradient.device), gradient, 0.0)


def _is_in(weight: Tensor, found: dict[str, nn.Parameter]) -> bool:
    return any(weight is other for other in found.values())
