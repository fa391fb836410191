"""What PyTorch's CPU kernels take beside the tensors that go in and come out.

Only convolutions take much. PyTorch is asked which kernel computes one; the amounts were read off
the profiler of PyTorch 2.13 and hold roughly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Backend: Any = torch._C._ConvBackend  # type: ignore[attr-defined]
BLOCK = 16
"""Channels that oneDNN keeps together; fewer are filled up."""
PLAIN_CHANNELS = 4
"""An image of at most so many channels is read as it lies."""
MIXING = frozenset(
    overload
    for name in ("add", "sub", "mul", "div")
    for packet in (getattr(torch.ops.aten, name), getattr(torch.ops.aten, f"{name}_"))
    for overload in (packet.Tensor,)
)
HALO = 1.07
"""Of oneDNN's copies of an image with a border, for the weight gradient in 16 bits."""


def round_up(num_bytes: int) -> int:
    """The CPU's allocator gives what is asked for."""
    return num_bytes


def scratch(func: Any, args: tuple[Any, ...], result: Any) -> int:
    """Bytes that a kernel takes while it runs, beside what it returns."""
    if func is torch.ops.aten.convolution.default:
        image, weight, bias = args[:3]
        return _convolution(image, weight, bias, result, args[3:9])
    if func is torch.ops.aten.convolution_backward.default:
        grad, image, weight, bias_sizes = args[:4]
        return _backward(grad, image, weight, bias_sizes, args[4:10])
    if func in MIXING:
        return _conversions([item for item in args if isinstance(item, Tensor)])
    return 0


def _conversions(operands: Sequence[Tensor]) -> int:
    """Elementwise kernels turn operands of another type into the common one first."""
    if len({operand.dtype for operand in operands}) < 2:
        return 0
    common = torch.result_type(*operands[:2])
    return sum(operand.numel() * common.itemsize for operand in operands if operand.dtype != common)


def _convolution(
    image: Tensor, weight: Tensor, bias: Tensor | None, result: Tensor, how: Sequence[Any]
) -> int:
    backend = torch._C._select_conv_backend(image, weight, bias, *how)
    if backend == Backend.Slow3d:
        return 0 if set(weight.shape[2:]) == {1} else _columns(image, weight, result)
    if backend == Backend.SlowTranspose3d:
        return _columns(result, weight, image[:1])
    source = 0 if image.shape[1] <= PLAIN_CHANNELS else _blocked(image)
    if how[3]:  # transposed
        return 2 * _blocked(result)
    if set(weight.shape[2:]) == {1} and _is_short(image):
        return source + 3 * _blocked(result) - _bytes(result)
    return max(source + _bytes(weight) + _blocked(result) - _bytes(result), _blocked(result))


def _backward(
    grad: Tensor, image: Tensor, weight: Tensor, bias_sizes: Any, how: Sequence[Any]
) -> int:
    backend = torch._C._select_conv_backend(image, weight, None, *how, bias_sizes)
    if backend == Backend.Slow3d:
        return _columns(image, weight, grad)
    if backend == Backend.SlowTranspose3d:
        return _columns(grad, weight, image[:1])
    both = _blocked(grad) + _blocked(image)
    if not _is_short(image) or image.shape[1] <= PLAIN_CHANNELS:
        return both + _bytes(weight)
    borders = HALO * both / len(image)
    return int(both + 2 * _bytes(weight) + borders)


def _columns(wide: Tensor, weight: Tensor, place: Tensor) -> int:
    """The matrix that a convolution by matrix product writes out: a column per voxel."""
    rows = wide.shape[1] * math.prod(weight.shape[2:])
    return place.shape[0] * rows * math.prod(place.shape[2:]) * place.element_size()


def _blocked(tensor: Tensor) -> int:
    """A tensor laid out as oneDNN likes it."""
    channels = tensor.shape[1]
    filled = -(-channels // BLOCK) * BLOCK
    return _bytes(tensor) * filled // channels


def _is_short(tensor: Tensor) -> bool:
    return tensor.element_size() < 4


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
