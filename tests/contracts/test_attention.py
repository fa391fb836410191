"""The contract of the attention backends that PyTorch itself computes.

The kernels of our own are held to the same one in ``test_attention_triton.py``.
"""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from attention_cases import (
    CASES,
    FULL_CASES,
    Case,
    assert_equals_reference,
    assert_step_equals_reference,
    relative_error,
)
from monai.networks.nets.swin_unetr import WindowAttention, compute_mask
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

from bratsml.models.attention import flex, reference, sdpa

every_case = pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
every_type = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture
def eager_flex(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Tensor]]:
    """FlexAttention uncompiled, with the backward pass that it refuses on a CPU but has."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        yield partial(flex.attend, compiled=False)


@every_case
def test_reference_is_monais_attention(case: Case) -> None:
    """Against MONAI's module and MONAI's mask, in float64: equal to rounding."""
    windows = case.windows
    module = WindowAttention(
        case.heads * case.channels, case.heads, windows.table_size, qkv_bias=True
    ).double()
    qkv, table, _ = case.draw(torch.float64)
    module.relative_position_bias_table.data.copy_(table)
    module.qkv, module.proj = torch.nn.Identity(), torch.nn.Identity()  # type: ignore[assignment]
    mask = None
    if windows.is_shifted:
        sides = [g * s for g, s in zip(windows.grid, windows.size, strict=True)]
        mask = compute_mask(sides, windows.size, windows.shift, "cpu").double()
    found = monai_softmax_part(module, qkv, mask)
    assert relative_error(reference.attend(qkv, table, windows), found) < 1e-14


def monai_softmax_part(module: Any, qkv: Tensor, mask: Tensor | None) -> Tensor:
    """MONAI's forward on a given projection: its identity layers pass ``qkv`` through."""

    class Given(torch.nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            return qkv.flatten(2)

    module.qkv = Given()
    shape = (*qkv.shape[:2], math.prod(qkv.shape[3:]))
    return module(torch.empty(shape), mask)


@every_case
@every_type
def test_sdpa(case: Case, dtype: torch.dtype) -> None:
    assert_equals_reference(sdpa.attend, case, dtype)


def test_flex(eager_flex: Callable[..., Tensor]) -> None:
    assert_equals_reference(eager_flex, CASES["2-D shifted"], torch.float32)


@pytest.mark.slow
@every_case
def test_flex_in_every_case(case: Case, eager_flex: Callable[..., Tensor]) -> None:
    assert_equals_reference(eager_flex, case, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("case", list(FULL_CASES.values()), ids=list(FULL_CASES))
def test_windows_of_343_tokens(case: Case, eager_flex: Callable[..., Tensor]) -> None:
    assert_equals_reference(sdpa.attend, case, torch.float32)
    assert_equals_reference(eager_flex, case, torch.float32)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_flex_compiled_on_the_cpu_for_inference() -> None:
    case = CASES["3-D shifted"]
    qkv, table, _ = case.draw(torch.float32)
    with torch.no_grad():
        found = flex.attend(qkv, table, case.windows)
        exact = reference.attend(qkv.double(), table.double(), case.windows)
    assert relative_error(found, exact) < 3e-6


def test_one_training_step_with_sdpa() -> None:
    assert_step_equals_reference("sdpa")


@pytest.mark.parametrize("attend", [reference.attend, sdpa.attend])
def test_dropout_keeps_the_mean_and_the_attention_weights_scaled(
    attend: Callable[..., Tensor],
) -> None:
    """With equal scores and values of 1, an output is the share of weights kept, over 1 - p."""
    case = CASES["2-D"]
    qkv, table, _ = case.draw(torch.float32)
    qkv = torch.stack([torch.zeros_like(qkv[:, :, 0])] * 2 + [torch.ones_like(qkv[:, :, 2])], 2)
    torch.manual_seed(0)
    outputs = torch.cat([attend(qkv, table * 0, case.windows, 0.25) for _ in range(40)])
    shares = outputs * 0.75 * 25  # of 25 keys
    assert torch.allclose(shares, shares.round(), atol=1e-4)
    assert outputs.mean() == pytest.approx(1.0, abs=0.01)
