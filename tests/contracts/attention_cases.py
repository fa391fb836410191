"""Examples that every attention backend must compute as the float64 reference does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bratsml.models.attention import reference
from bratsml.models.attention.windows import Windows

TOLERANCE = {torch.float32: 3e-6, torch.float16: 3e-3, torch.bfloat16: 2e-2, torch.float64: 1e-13}
"""Relative error in the Frobenius norm, of output and each gradient, by type of numbers."""

STEP_TOLERANCE = 1e-5
"""The same for the change of each weight in one step in float32."""


def cut(size: tuple[int, ...], shift: int, *grid: int, full: int = 0) -> Windows:
    """Windows of that size, rolled by ``shift`` along each axis that has more than one window."""
    table_size = (full,) * len(size) if full else size
    return Windows(size, table_size, tuple(shift if g > 1 else 0 for g in grid), grid)


@dataclass(frozen=True)
class Case:
    windows: Windows
    images: int
    heads: int
    channels: int

    def draw(self, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
        """``qkv``, table, and the gradient that comes back; rounded to ``dtype`` already."""
        rng = torch.Generator().manual_seed(1)
        batch = self.images * math.prod(self.windows.grid)
        tokens, heads, channels = self.windows.num_tokens, self.heads, self.channels

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng)

        qkv = normal(batch, tokens, 3, heads, channels).to(device, dtype)
        table = normal(self.windows.num_rows, heads).to(device)
        grad = normal(batch, tokens, heads * channels).to(device, dtype)
        return qkv, table if dtype != torch.float64 else table.double(), grad


CASES = {
    "3-D": Case(cut((2, 2, 2), 0, 1, 1, 1), 2, 2, 8),
    "3-D shifted": Case(cut((2, 2, 2), 1, 2, 2, 2), 1, 1, 8),
    "3-D shifted along one axis, two images": Case(cut((2, 3, 2), 1, 1, 3, 1), 2, 1, 16),
    "cut short by a small image": Case(cut((3, 3, 3), 0, 1, 1, 1, full=7), 1, 1, 12),
    "cut short along one axis, shifted": Case(cut((2, 4, 4), 2, 1, 2, 1, full=4), 1, 2, 4),
    "2-D": Case(cut((5, 5), 0, 1, 1), 2, 3, 20),
    "2-D shifted": Case(cut((4, 4), 2, 2, 2), 1, 1, 32),
}
FULL_CASES = {
    "7 cubed": Case(cut((7, 7, 7), 0, 1, 1, 1), 1, 1, 16),
    "7 cubed shifted": Case(cut((7, 7, 7), 3, 1, 2, 1), 1, 1, 8),
}


def results(
    attend: Callable[..., Tensor], case: Case, qkv: Tensor, table: Tensor, grad: Tensor
) -> dict[str, Tensor]:
    """Output and gradients."""
    qkv, table = (t.detach().clone().requires_grad_() for t in (qkv, table))
    out = attend(qkv, table, case.windows)
    grad_qkv, grad_table = torch.autograd.grad(out, (qkv, table), grad)
    parts = dict(zip(("query", "key", "value"), grad_qkv.unbind(2), strict=True))
    return {"output": out.detach(), **parts, "table": grad_table}


def assert_equals_reference(
    attend: Callable[..., Tensor],
    case: Case,
    dtype: torch.dtype,
    device: str = "cpu",
    exactly: Callable[..., Tensor] = reference.attend,
) -> None:
    """Output and all gradients are those of the float64 reference on the same numbers."""
    qkv, table, grad = case.draw(dtype, device)
    found = results(attend, case, qkv, table, grad)
    exact = results(exactly, case, qkv.double(), table.double(), grad.double())
    for name, tensor in found.items():
        error = relative_error(tensor, exact[name])
        assert error <= TOLERANCE[dtype], f"{name}: relative error {error:.1e}"


def assert_step_equals_reference(backend: str, device: str = "cpu") -> None:
    """One SGD step of a stage of two Swin blocks changes every weight as in float64."""
    moved = {
        name: step_of_stage(name, device, dtype)
        for name, dtype in (("reference", torch.float64), (backend, torch.float32))
    }
    for name, change in moved["reference"].items():
        error = relative_error(moved[backend][name], change)
        assert error <= STEP_TOLERANCE, f"{name}: relative error {error:.1e}"


def step_of_stage(backend: str, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """How much each weight changes; one block is shifted, and the image not a whole window."""
    # Only here: importing MONAI takes longer than the interpreted kernels of the fast tests.
    from monai.networks.nets.swin_unetr import BasicLayer

    from bratsml.models.attention.swin import use_backend

    torch.manual_seed(0)
    stage = BasicLayer(16, 2, 2, (2, 2, 2), drop_path=[0.0, 0.0], qkv_bias=True)
    use_backend(stage, backend)
    image = torch.randn((1, 16, 2, 3, 4))
    stage, image = stage.to(device, dtype), image.to(device, dtype)
    before = {name: weight.detach().clone() for name, weight in stage.named_parameters()}
    optimizer = torch.optim.SGD(stage.parameters(), lr=1.0)
    stage(image).square().sum().backward()
    optimizer.step()
    return {name: weight.detach() - before[name] for name, weight in stage.named_parameters()}


def relative_error(found: Tensor, exact: Tensor) -> float:
    """In the Frobenius norm."""
    found, exact = found.detach().double(), exact.detach().double()
    return float((found - exact).norm() / exact.norm())
