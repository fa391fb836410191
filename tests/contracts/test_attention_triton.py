"""The contract of our own attention kernels: on a GPU where there is one, else interpreted.

Triton decides when it is imported whether it compiles or interprets. So without a GPU this file
runs itself once more, in a process with ``TRITON_INTERPRET=1``. The interpreter takes some 30 ms
per program, which is why windows are few here.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from attention_cases import (
    CASES,
    FULL_CASES,
    Case,
    assert_equals_reference,
    assert_step_equals_reference,
    cut,
    results,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from bratsml.errors import ConfigError
from bratsml.models.attention import reference, triton_op
from bratsml.models.attention.triton_op import Tiles
from bratsml.models.attention.windows import Windows

HAS_TRITON = importlib.util.find_spec("triton") is not None
ON_GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if ON_GPU else "cpu"

runs_kernels = pytest.mark.skipif(
    not HAS_TRITON or not (ON_GPU or INTERPRETED),
    reason="needs triton, and a GPU or its interpreter, which a test below starts",
)
FAST = ("cut short along one axis, shifted", "cut short by a small image")
WHOLE = Tiles(128, 128, 4)
"""Few large blocks, which the interpreter is through with soonest."""


@pytest.fixture(autouse=True)
def _few_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two or three windows share the gradient of the bias, as hundreds do on a GPU."""
    monkeypatch.setattr(triton_op, "PROGRAMS_WANTED", 2)


@runs_kernels
@pytest.mark.parametrize("name", FAST)
def test_equals_the_reference(name: str) -> None:
    attend = partial(triton_op.attend, tiles=WHOLE)
    assert_equals_reference(attend, CASES[name], torch.float32, DEVICE)


@runs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in FAST])
def test_equals_the_reference_in_more_cases(name: str) -> None:
    attend = partial(triton_op.attend, tiles=WHOLE)
    assert_equals_reference(attend, CASES[name], torch.float32, DEVICE)


@runs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("name", list(FULL_CASES))
def test_windows_of_343_tokens(name: str) -> None:
    attend = partial(triton_op.attend, tiles=WHOLE)
    assert_equals_reference(attend, FULL_CASES[name], torch.float32, DEVICE)


@runs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("tiles", [Tiles(16, 16, 4), Tiles(32, 16, 4), Tiles(16, 32, 4)], ids=str)
def test_every_way_of_cutting_into_blocks_gives_the_same(tiles: Tiles) -> None:
    """45 tokens: whole blocks, and a last one that is partly padding."""
    case = Case(cut((5, 3, 3), 1, 1, 2, 1), 1, 1, 8)
    attend = partial(triton_op.attend, tiles=tiles)
    assert_equals_reference(attend, case, torch.float32, DEVICE)


@runs_kernels
@pytest.mark.slow
def test_sixteen_bits() -> None:
    dtype = torch.bfloat16 if ON_GPU else torch.float16  # which the interpreter does not know
    attend = partial(triton_op.attend, tiles=WHOLE)
    assert_equals_reference(attend, CASES["3-D"], dtype, DEVICE)


@runs_kernels
@pytest.mark.slow
def test_dropout_is_the_reference_with_the_weights_that_philox_keeps() -> None:
    """Output and gradients, the kept weights worked out by an implementation of its own."""
    case, dropout, seed = CASES["cut short by a small image"], 0.3, 20_000_001

    def exactly(qkv: Tensor, table: Tensor, windows: Windows) -> Tensor:
        kept = kept_by_philox(seed, len(qkv) * case.heads, windows.num_tokens, dropout)
        weights = reference.attention_weights(qkv, table, windows)
        weights = weights * kept.view(weights.shape).to(weights) / (1 - dropout)
        return (weights @ qkv[:, :, 2].transpose(1, 2)).transpose(1, 2).flatten(2)

    def attend(qkv: Tensor, table: Tensor, windows: Windows) -> Tensor:
        return triton_op.attend_seeded(qkv, table, windows, dropout, seed, WHOLE)

    assert_equals_reference(attend, case, torch.float32, DEVICE, exactly)


def kept_by_philox(seed: int, pairs: int, tokens: int, dropout: float) -> Tensor:
    """``(pairs, tokens, tokens)`` booleans.

    Philox 4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011: counter
    (query * tokens + key, window * heads + head, 0, 0), key the seed; 31 bits of the first word.
    """
    multipliers, raises = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    count: list[npt.NDArray[np.uint64]] = [
        np.tile(np.arange(tokens * tokens, dtype=np.uint64), pairs),
        np.repeat(np.arange(pairs, dtype=np.uint64), tokens * tokens),
    ]
    count += [np.zeros_like(count[0])] * 2
    keys = [np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)]
    for _ in range(10):
        a, b = (count[2 * i] * np.uint64(multipliers[i]) for i in (0, 1))
        count = [
            (b >> high) ^ count[1] ^ keys[0],
            b & low,
            (a >> high) ^ count[3] ^ keys[1],
            a & low,
        ]
        keys = [(key + np.uint64(more)) & low for key, more in zip(keys, raises, strict=True)]
    signed = count[0].astype(np.uint32).view(np.int32)
    uniform = np.where(signed < 0, -signed - 1, signed).astype(np.float64) * 4.6566127342e-10
    return torch.from_numpy(uniform >= np.float32(dropout)).view(pairs, tokens, tokens)


def test_nothing_of_size_n_by_n_is_kept_for_the_backward_pass() -> None:
    """Kept are qkv, output, log-sum-exp, and the bias table with the places in it; traced only."""
    kept: list[tuple[int, ...]] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), FakeTensorMode():
        qkv = torch.empty(6, 25, 3, 3, 20, requires_grad=True)
        table = torch.empty(81, 3, requires_grad=True)
        triton_op.attend(qkv, table, CASES["2-D"].windows).sum().backward()
    places = [(25,), (41,), (25,), (1,)]
    assert sorted(kept) == sorted([(6, 25, 3, 3, 20), (81, 3), (6, 25, 60), (6, 3, 25), *places])
    assert qkv.grad.shape == qkv.shape
    assert table.grad.shape == table.shape


@runs_kernels
@pytest.mark.slow
def test_one_training_step() -> None:
    assert_step_equals_reference("triton", DEVICE)


@runs_kernels
@pytest.mark.slow
def test_same_bits_each_time() -> None:
    case = CASES["3-D shifted along one axis, two images"]
    qkv, table, grad = case.draw(torch.float32, DEVICE)
    attend = partial(triton_op.attend, tiles=WHOLE)
    one, other = (results(attend, case, qkv, table, grad) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


@runs_kernels
@pytest.mark.slow
def test_frozen_parts_get_no_gradient_and_do_not_disturb_the_others() -> None:
    case = CASES["cut short by a small image"]
    qkv, table, grad = case.draw(torch.float32, DEVICE)
    wanted = results(partial(triton_op.attend, tiles=WHOLE), case, qkv, table, grad)
    qkv.requires_grad_()
    triton_op.attend(qkv, table, case.windows, tiles=WHOLE).backward(grad)
    assert table.grad is None
    assert torch.equal(qkv.grad[:, :, 0], wanted["query"])


@runs_kernels
@pytest.mark.slow
def test_operator_follows_torchs_rules() -> None:
    """Shape rules, registration and strides agree with what runs."""
    case = CASES["cut short by a small image"]
    qkv, table, _ = case.draw(torch.float32, DEVICE)
    places = triton_op.places_on(case.windows, qkv)
    arguments: tuple[Any, ...] = (
        qkv.requires_grad_(), table.requires_grad_(),
        [places.place, places.token, places.side, places.border],
        [case.windows.center, 0], [32, 32, 4], 0.0, 0,
    )  # fmt: skip
    torch.library.opcheck(
        triton_op._forward, arguments, test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.skipif(ON_GPU or INTERPRETED, reason="is about machines without")
def test_without_a_gpu_the_kernels_are_refused_in_one_sentence() -> None:
    reason = triton_op.obstacle(torch.device("cpu"))
    assert reason == "it needs a CUDA GPU and the network is on cpu"
    qkv, table, _ = CASES["3-D"].draw(torch.float64)
    with pytest.raises(ConfigError, match="32 or 16 bits"):
        triton_op.attend(qkv, table, CASES["3-D"].windows)


def run_interpreted(which: str) -> None:
    """This file again, in a process where Triton interprets."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        which,
        __file__,
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        command,
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "passed" in done.stdout


in_a_process = pytest.mark.skipif(
    not HAS_TRITON or ON_GPU or INTERPRETED,
    reason="the kernels run in this very process" if HAS_TRITON else "triton is not installed",
)


@in_a_process
def test_kernels_in_the_interpreter() -> None:
    run_interpreted("not slow")


@in_a_process
@pytest.mark.slow
def test_kernels_in_the_interpreter_in_more_cases() -> None:
    run_interpreted("slow")
