"""What a CUDA device does differently from the CPU whose fake tensors stand in for it.

The trace runs on fake CPU tensors everywhere, with or without a GPU or a CUDA build of PyTorch, so
that all machines predict the same. Three things differ and are put right here:

- autocast: CUDA takes other operations in 16 bits and more of them back to 32 than the CPU does
  (``torch/csrc``'s lists of 2.13);
- ``scaled_dot_product_attention``: the memory-efficient kernel instead of the CPU's;
- convolutions: cuDNN's tensor-core kernels read channels-last, so that tensors laid out otherwise
  are copied in a workspace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import bratsml.losses.distance
from bratsml.experiment import Experiment

BLOCK_BYTES = 512
"""The caching allocator's smallest unit."""
BIAS_ALIGNMENT = 16
"""Keys to which the memory-efficient kernel pads a bias."""

# fmt: off
_TO_FLOAT32 = frozenset([
    "acos", "asin", "cosh", "erfinv", "exp", "expm1", "log", "log10", "log2", "log1p",
    "reciprocal", "rsqrt", "sinh", "tan", "pow", "__pow__", "softplus", "layer_norm",
    "group_norm", "norm", "cosine_similarity", "nll_loss", "kl_div", "l1_loss", "smooth_l1_loss",
    "huber_loss", "mse_loss", "binary_cross_entropy_with_logits", "dist", "cdist", "renorm",
    "logsumexp", "interpolate", "upsample", "softmax", "log_softmax", "prod", "cumprod", "cumsum",
    "sum",
])
# fmt: on
_TO_16_BITS = frozenset(["prelu"])


def round_up(num_bytes: int) -> int:
    """A block of the caching allocator."""
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES


class CudaBehaviour(TorchFunctionMode):
    """Lets functions on CPU tensors do what they do on CUDA."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Autocast as on CUDA; attention by the memory-efficient kernel."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return _attend(*args, **kwargs)
        if torch.is_autocast_enabled("cpu"):
            if name in _TO_FLOAT32 and kwargs.get("dtype") is None:
                with torch.autocast("cpu", enabled=False):
                    return func(*_cast(args, torch.float32), **_cast(kwargs, torch.float32))
            if name in _TO_16_BITS:
                kind = torch.get_autocast_dtype("cpu")
                return func(*_cast(args, kind), **_cast(kwargs, kind))
        return func(*args, **kwargs)


def _cast(value: Any, kind: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(kind) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {name: _cast(item, kind) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_cast(item, kind) for item in value)
    return value


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> Tensor:
    """What PyTorch does around its memory-efficient kernel, and the kernel's results."""
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(kind), key.to(kind), value.to(kind)
        attn_mask = attn_mask.to(kind) if attn_mask is not None else None
    if attn_mask is not None:
        keys = attn_mask.shape[-1]
        room = -keys % BIAS_ALIGNMENT
        if room:
            attn_mask = functional.pad(attn_mask, (0, room))[..., :keys]
        attn_mask = attn_mask.expand(*query.shape[:3], keys)
    wants_gradient = torch.is_grad_enabled() and any(
        t.requires_grad for t in (query, key, value, attn_mask) if t is not None
    )
    found = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, attn_mask, wants_gradient, dropout_p, is_causal, scale=scale
    )
    out: Tensor = found[0]
    return out


@contextmanager
def cuda_behaviour() -> Iterator[None]:
    """Functions behave as on CUDA within."""
    run_backward = torch.autograd._engine_run_backward

    def backward(*args: Any, **kwargs: Any) -> Any:
        with CudaBehaviour():  # the mode has been left; what is recomputed must see it too
            return run_backward(*args, **kwargs)

    distance = bratsml.losses.distance
    with (
        CudaBehaviour(),
        mock.patch.object(torch.autograd, "_engine_run_backward", backward),
        mock.patch.object(distance, "_by_scipy", distance._by_minima),
    ):
        yield


def convolution_scratch(experiment: Experiment) -> Callable[[Any, tuple[Any, ...], Any], int]:
    """The workspace of a convolution, as a function of the operation.

    cuDNN's tensor-core kernels want channels last: each tensor laid out otherwise is copied. The
    input gradient and the weight gradient are computed one after the other. Nothing is added for
    the transforms that ``cudnn_benchmark`` may choose: PyTorch falls back to another algorithm
    when their workspace cannot be had, so they never decide whether a training fits.
    """
    spared = experiment.compute.channels_last

    def scratch(func: Any, args: tuple[Any, ...], result: Any) -> int:
        if func is torch.ops.aten.convolution.default:
            return _bytes(args[1]) + (0 if spared else _bytes(args[0]) + _bytes(result))
        if func is torch.ops.aten.convolution_backward.default:
            grad, image, weight = args[:3]
            return _bytes(weight) + (0 if spared else _bytes(grad) + _bytes(image))
        return 0

    return scratch


def _bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.element_size()
