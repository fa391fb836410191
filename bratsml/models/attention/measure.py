"""How fast a backend is for one shape, and whether its result is right."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bratsml.models.attention import reference
from bratsml.models.attention.backends import attend_by
from bratsml.models.attention.windows import Windows

MOST_SCORES = {"cpu": 1 << 20, "cuda": 1 << 25}
"""Scores of one measured call: enough to fill the device, small beside a network's own memory."""

REPEATS = {"cpu": 4, "cuda": 20}

MOST_ERROR = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Allowed relative error against float64, in the Frobenius norm, of output and gradients."""

NO_WORSE = 2.0
"""Nor may a backend's error be above this many times the reference's own (which may use tf32)."""


@dataclass(frozen=True)
class Workload:
    """One shape of call, cut down to what is worth measuring.

    Attributes:
        batch: B, a whole number of images for shifted windows.
        training: With the backward pass.
        dropout: Share of attention weights dropped.
    """

    device: torch.device
    dtype: torch.dtype
    windows: Windows
    batch: int
    heads: int
    channels: int
    training: bool
    dropout: float

    @classmethod
    def like(cls, qkv: Tensor, windows: Windows, *, training: bool, dropout: float) -> Workload:
        """The workload that stands for a call with ``qkv``, whatever its batch size."""
        batch, tokens, _, heads, channels = qkv.shape
        most = max(1, MOST_SCORES.get(qkv.device.type, 1 << 20) // (heads * tokens * tokens))
        batch = min(batch, most)
        if windows.is_shifted:
            windows = replace(windows, grid=_shrink(windows.grid, most))
            batch = math.prod(windows.grid)
        dropout = dropout if training else 0.0
        return cls(qkv.device, qkv.dtype, windows, batch, heads, channels, training, dropout)

    def __str__(self) -> str:
        mode = "training" if self.training else "inference"
        dropout = ", dropout" if self.dropout else ""
        kind = str(self.dtype).removeprefix("torch.")
        full = "x".join(map(str, self.windows.table_size))
        return (
            f"{self.batch} windows of {self.windows} (table for {full}), "
            f"{self.heads} heads of {self.channels}, {kind}, {mode}{dropout}"
        )


@dataclass(frozen=True)
class Measured:
    """What came out for one backend; ``reason``: why it is out of the question, or ``""``."""

    milliseconds: float
    reason: str = ""


def measure(workload: Workload, candidates: list[str]) -> dict[str, Measured]:
    """Measure every candidate.

    In a thread of its own: the caller may be inside autocast, inference mode, a checkpointed block
    or another hook of autograd's, all of which belong to a thread and would see every tensor made
    here. The random generators are left as they were.
    """
    found: dict[str, Measured] = {}

    def work() -> None:
        devices = [workload.device] if workload.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            found.update(_measure(workload, candidates))

    thread = threading.Thread(target=work, name="attention-measurement")
    thread.start()
    thread.join()
    return found


def _measure(workload: Workload, candidates: list[str]) -> dict[str, Measured]:
    trial = _Trial(workload)
    limit = max(MOST_ERROR.get(workload.dtype, 1e-6), NO_WORSE * trial.error("reference"))
    left_out = {name: _reason_against(trial, name, limit) for name in candidates}
    fit = [name for name in candidates if not left_out[name]]
    # In turns, so that other work on the machine slows all alike.
    rounds = [
        {name: trial.seconds(name) for name in fit} for _ in range(REPEATS[trial.device_kind])
    ]
    if trial.on_gpu:
        torch.cuda.empty_cache()
    typical = statistics.median if trial.on_gpu else min  # CPU seconds are only ever added to
    return {
        name: Measured(1000 * typical(each[name] for each in rounds) if name in fit else 0.0, why)
        for name, why in left_out.items()
    }


def _reason_against(trial: _Trial, name: str, limit: float) -> str:
    """Why a backend is out of the question, or ``""``; whatever it compiles is compiled then."""
    try:
        error = trial.error(name)
        trial.seconds(name)
    except Exception as failure:  # whatever a backend raises, another can do its work
        first_line = (str(failure).splitlines() or [""])[0]
        return f"{type(failure).__name__}: {first_line[:200]}"
    return "" if error <= limit else f"error {error:.1e}, allowed {limit:.1e}"


class _Trial:
    """The numbers that all candidates are given, and the float64 result."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.on_gpu = workload.device.type == "cuda"
        self.device_kind = "cuda" if self.on_gpu else "cpu"
        rng = torch.Generator().manual_seed(0)
        tokens, heads = workload.windows.num_tokens, workload.heads

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=rng).to(workload.device)

        self.qkv = draw(workload.batch, tokens, 3, heads, workload.channels).to(workload.dtype)
        self.grad = draw(workload.batch, tokens, heads * workload.channels).to(workload.dtype)
        self.table = draw(workload.windows.num_rows, heads)
        self.exact = self._call(reference.attend, 0.0, torch.float64)

    def _call(
        self, attend: Callable[..., Tensor], dropout: float, dtype: torch.dtype | None = None
    ) -> list[Tensor]:
        """Output and, in training, the gradients of ``qkv`` and table."""
        training = self.workload.training
        qkv, table = (t.detach().to(dtype or t.dtype) for t in (self.qkv, self.table))
        qkv.requires_grad_(training)
        table.requires_grad_(training)
        with torch.set_grad_enabled(training):
            out = attend(qkv, table, self.workload.windows, dropout)
        if not training:
            return [out]
        return [out.detach(), *torch.autograd.grad(out, (qkv, table), self.grad.to(out.dtype))]

    def error(self, name: str) -> float:
        """The largest relative error of output and gradients."""
        errors = [
            float((got.double() - exact).norm() / exact.norm())
            for got, exact in zip(self._call(attend_by(name), 0.0), self.exact, strict=True)
        ]
        return math.nan if any(map(math.isnan, errors)) else max(errors)

    def seconds(self, name: str) -> float:
        """Time of one call; on a CPU that of the processor, which others' work hardly changes."""
        clock = time.perf_counter if self.on_gpu else time.process_time
        self._wait()
        start = clock()
        self._call(attend_by(name), self.workload.dropout)
        self._wait()
        return clock() - start

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize(self.workload.device)


def _shrink(grid: tuple[int, ...], most: int) -> tuple[int, ...]:
    """A grid of at most so many windows, the longest axes cut first; one window at least."""
    sides = list(grid)
    while math.prod(sides) > most and max(sides) > 1:
        sides[sides.index(max(sides))] -= 1
    return tuple(sides)
