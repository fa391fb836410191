"""Window attention by our own Triton kernels, as one PyTorch operator.

For the backward pass it keeps ``qkv``, the output and the log-sum-exp. Being an operator with a
shape rule it can be traced with fake tensors, on any machine; to run it needs a CUDA GPU, or
Triton's interpreter (``TRITON_INTERPRET=1``) on a CPU, which is slow and meant for tests.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from bratsml.errors import ConfigError
from bratsml.models.attention.windows import Windows, places_on

KERNEL_VERSION = 1
"""Raised with every change of the kernels, so that old measurements of them are not believed."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SMALLEST_BLOCK = 16
SMALLEST_COMPUTE_CAPABILITY = (7, 5)
PROGRAMS_WANTED = 1024
"""Programs that fill a large GPU several times; the windows are shared out until there are so many.

The number fixes the order of the sums, so it does not depend on the GPU at hand.
"""

_SEED_BITS = 31


@dataclass(frozen=True)
class Tiles:
    """How a window's tokens are cut into blocks.

    Attributes:
        own: Rows that one program owns.
        loop: Rows that it takes at a time of what it runs over.
        warps: Groups of 32 threads per program.
    """

    own: int
    loop: int
    warps: int

    def for_tokens(self, num_tokens: int) -> Tiles:
        """No larger than windows of that many tokens need."""
        most = max(SMALLEST_BLOCK, 1 << (num_tokens - 1).bit_length())
        return Tiles(min(self.own, most), min(self.loop, most), self.warps)


# 343 tokens fill 6 blocks of 64 to 89 % and 11 blocks of 32 to 97 %.
TILES = (Tiles(64, 32, 4), Tiles(64, 64, 4), Tiles(128, 32, 4), Tiles(32, 32, 2))
"""Candidates; the first is used unless ``auto`` has found another to be faster."""


def is_installed() -> bool:
    """Whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def is_interpreted() -> bool:
    """Whether Triton runs on the CPU, in its interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def obstacle(device: torch.device) -> str:
    """Why the kernels cannot run on that device, or ``""``."""
    if device.type != "cuda" and not (device.type == "cpu" and is_interpreted()):
        return f"it needs a CUDA GPU and the network is on {device.type}"
    if not is_installed():
        return "the package triton is not installed"
    is_gpu = device.type == "cuda"
    if is_gpu and torch.cuda.get_device_capability(device) < SMALLEST_COMPUTE_CAPABILITY:
        return "the GPU is older than compute capability 7.5"
    return ""


def attend(
    qkv: Tensor,
    table: Tensor,
    windows: Windows,
    dropout: float = 0.0,
    tiles: Tiles = TILES[0],
) -> Tensor:
    """See :func:`bratsml.models.attention.reference.attend`.

    Dropped weights follow from a seed drawn from torch's CPU generator, so that recomputing under
    the restored generator drops the same ones.

    Raises:
        ConfigError: The device or the type of the numbers does not allow it.
    """
    if qkv.dtype not in DTYPES:
        raise ConfigError(f"attention=triton computes in 32 or 16 bits, not in {qkv.dtype}")
    if qkv.dtype == torch.bfloat16 and not qkv.is_cuda and is_interpreted():
        raise ConfigError("Triton's interpreter does not know bfloat16; use float32 or float16")
    draws = dropout > 0.0 and not isinstance(qkv, FakeTensor)
    seed = int(torch.randint(1 << _SEED_BITS, ())) if draws else 0
    return attend_seeded(qkv, table, windows, dropout, seed, tiles)


def attend_seeded(
    qkv: Tensor,
    table: Tensor,
    windows: Windows,
    dropout: float,
    seed: int,
    tiles: Tiles = TILES[0],
) -> Tensor:
    """:func:`attend` with the seed given: which weights are dropped depends on it alone."""
    places = places_on(windows, qkv)
    cut = tiles.for_tokens(windows.num_tokens)
    out, _ = _forward(
        qkv.contiguous(),
        table,
        [places.place, places.token, places.side, places.border],
        [windows.center, int(windows.is_shifted)],
        [cut.own, cut.loop, cut.warps],
        dropout,
        seed,
    )
    return out


@torch.library.custom_op("bratsml::window_attention", mutates_args=())
def _forward(
    qkv: Tensor,
    table: Tensor,
    places: list[Tensor],
    geometry: list[int],
    tiles: list[int],
    dropout: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Output ``(B, N, H * D)`` and log-sum-exp ``(B, H, N)`` in base 2."""
    call = _Call(qkv, table, places, geometry, tiles, dropout, seed)
    out, logsumexp = _empty_results(qkv)
    call.launch("forward_kernel", call.pair_blocks, *call.inputs(), out, logsumexp)
    return out, logsumexp


@_forward.register_fake
def _forward_shapes(
    qkv: Tensor, table: Tensor, places: Any, geometry: Any, tiles: Any, dropout: float, seed: int
) -> tuple[Tensor, Tensor]:
    return _empty_results(qkv)


def _empty_results(qkv: Tensor) -> tuple[Tensor, Tensor]:
    batch, tokens, _, heads, channels = qkv.shape
    out = qkv.new_empty((batch, tokens, heads * channels))
    return out, qkv.new_empty((batch, heads, tokens), dtype=torch.float32)


@torch.library.custom_op("bratsml::window_attention_backward", mutates_args=())
def _backward(
    grad_out: Tensor,
    qkv: Tensor,
    table: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    places: list[Tensor],
    geometry: list[int],
    tiles: list[int],
    dropout: float,
    seed: int,
    with_table: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of ``qkv`` and of the table (zeros unless wanted)."""
    call = _Call(qkv, table, places, geometry, tiles, dropout, seed)
    grad_qkv, row_sum = torch.empty_like(qkv), torch.empty_like(logsumexp)
    inputs = call.inputs()
    kept = (logsumexp, grad_out, row_sum)
    call.launch(
        "query_gradient_kernel", call.pair_blocks, *inputs, out, *kept, grad_qkv
    )  # first: it fills row_sum
    call.launch("key_gradient_kernel", call.pair_blocks, *inputs, *kept, grad_qkv, swapped=True)
    grad_table = call.table_gradient(inputs, kept) if with_table else torch.zeros_like(table)
    return grad_qkv, grad_table


@_backward.register_fake
def _backward_shapes(
    grad_out: Tensor, qkv: Tensor, table: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(qkv), torch.empty_like(table)


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, table, places, *ctx.settings = inputs
    ctx.save_for_backward(qkv, table, *output, *places)
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad_out: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    qkv, table, out, logsumexp, *places = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    grad_qkv, grad_table = _backward(
        grad_out.contiguous(), qkv, table, out, logsumexp, places, *ctx.settings, wanted[1]
    )
    given = (grad_qkv if wanted[0] else None, grad_table if wanted[1] else None)
    return (*given, [None] * len(places), None, None, None, None)


_forward.register_autograd(_differentiate, setup_context=_keep_for_backward)


class _Call:
    """The arguments that every kernel of one call shares."""

    def __init__(
        self,
        qkv: Tensor,
        table: Tensor,
        places: list[Tensor],
        geometry: list[int],
        tiles: list[int],
        dropout: float,
        seed: int,
    ) -> None:
        self.qkv, self.table, self.tiles = qkv, table, Tiles(*tiles)
        self.place, self.token, self.side, self.border = places
        self.center, is_shifted = geometry
        self.batch, self.tokens, _, self.heads, self.channels = qkv.shape
        # Scores are in base 2; so are the biases, laid out so that a head's lie together.
        self.log2_e = math.log2(math.e)
        self.by_head = (table.detach().float() * self.log2_e).t().contiguous()
        self.numbers = (
            seed,
            float(dropout),
            self.channels**-0.5 * self.log2_e,
            self.border.numel(),
            self.center,
        )
        self.settings = {
            "H": self.heads,
            "T": len(table),
            "N": self.tokens,
            "D": self.channels,
            "BLOCK_D": max(SMALLEST_BLOCK, 1 << (self.channels - 1).bit_length()),
            "SHIFTED": bool(is_shifted),
            "DROPOUT": dropout > 0.0,
            "PRECISION": _dot_precision(qkv.dtype),
        }

    @property
    def pair_blocks(self) -> int:
        """Programs when each owns a block of one window and head."""
        return self.batch * self.heads * -(-self.tokens // self.tiles.own)

    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors that every kernel begins with."""
        return self.qkv, self.by_head, self.place, self.side, self.border

    def launch(
        self,
        name: str,
        programs: int | tuple[int, int, int],
        *tensors: Tensor,
        swapped: bool = False,
        more: tuple[int, ...] = (),
    ) -> None:
        """Start a kernel; ``swapped``: programs own keys and run over queries."""
        grid = programs if isinstance(programs, tuple) else (programs, 1, 1)
        own, loop = self.tiles.own, self.tiles.loop
        queries, keys = (loop, own) if swapped else (own, loop)
        kernel = getattr(_kernels(), name)
        with _device_of(self.qkv):
            kernel[grid](
                *tensors,
                *self.numbers,
                *more,
                **self.settings,
                BLOCK_Q=queries,
                BLOCK_K=keys,
                num_warps=self.tiles.warps,
            )

    def table_gradient(self, inputs: tuple[Tensor, ...], kept: tuple[Tensor, ...]) -> Tensor:
        """Sum over windows first, then over pairs of tokens: two fixed orders."""
        blocks = [-(-self.tokens // block) for block in (self.tiles.own, self.tiles.loop)]
        tiles = blocks[0] * blocks[1]
        wanted = -(-PROGRAMS_WANTED // (tiles * self.heads))
        share = -(-self.batch // min(wanted, self.batch))
        shares = -(-self.batch // share)
        size = (shares, self.heads, self.tokens, self.tokens)
        grad_bias = self.qkv.new_empty(size, dtype=torch.float32)
        self.launch(
            "bias_gradient_kernel",
            (tiles, self.heads, shares),
            *inputs,
            *kept,
            grad_bias,
            more=(self.batch, share),
        )
        rows = len(self.table)
        grad_table = self.table.new_empty((rows, self.heads), dtype=torch.float32)
        block = 32
        with _device_of(self.qkv):
            _kernels().table_gradient_kernel[(-(-rows // block), self.heads, 1)](
                grad_bias,
                self.place,
                self.token,
                grad_table,
                self.center,
                shares,
                H=self.heads,
                T=rows,
                N=self.tokens,
                BLOCK_T=block,
                BLOCK_Q=self.tiles.loop,
            )
        return grad_table.to(self.table.dtype)


def _dot_precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: as tf32 where torch's own products are, else in three parts."""
    if dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32:
        return "tf32x3"
    return "tf32"


def _device_of(tensor: Tensor) -> Any:
    return torch.cuda.device(tensor.device) if tensor.is_cuda else torch.device("cpu")


@functools.cache
def _kernels() -> ModuleType:
    """Imported at first use: Triton decides then whether it compiles or interprets."""
    from bratsml.models.attention import triton_kernels

    return triton_kernels
