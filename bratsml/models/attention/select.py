"""``auto``: the fastest backend for a shape, measured once and remembered.

A measurement is kept under the hardware, the versions of torch, Triton and our kernels, the shape,
the type of numbers and the mode. It is written, under a lock, before its result is used, and never
overwritten: a training that is resumed, or a fold beside it, computes with the same backend. Where
it cannot be written nothing is measured, and a fixed rule decides.

The file is ``attention.json`` in the user's cache folder, or what ``BRATSML_ATTENTION_CACHE``
names; deleting it has everything measured anew.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from bratsml.errors import ResourceError
from bratsml.files import read_json, read_text, write_json
from bratsml.models.attention import triton_op
from bratsml.models.attention.backends import obstacle, variants
from bratsml.models.attention.measure import Workload, measure
from bratsml.models.attention.windows import Windows

CACHE_VARIABLE = "BRATSML_ATTENTION_CACHE"
FORMAT = 1
LOCK_SECONDS = 600.0
"""Another process may be compiling and measuring; after this long the fixed rule decides."""

CLOSE = {"cpu": 1.25, "cuda": 1.05}
"""Times within this factor are a tie, which the order of :data:`PREFERENCE` settles.

Wider on a CPU, where few milliseconds are measured beside whatever else it does.
"""

PREFERENCE = ("triton", "sdpa", "flex", "reference")
"""From the least memory to the most."""

_chosen: dict[tuple[str, str], str] = {}


@torch.compiler.disable
def choose(qkv: Tensor, table: Tensor, windows: Windows, dropout: float) -> str:
    """The variant (see :func:`bratsml.models.attention.backends.variants`) for such a call."""
    if isinstance(qkv, FakeTensor):
        return fixed_rule(qkv.device)
    training = torch.is_grad_enabled() and (qkv.requires_grad or table.requires_grad)
    workload = Workload.like(qkv, windows, training=training, dropout=dropout)
    candidates = _candidates(workload)
    if len(candidates) == 1:
        return candidates[0]
    path, key = cache_file(), cache_key(workload)
    if (str(path), key) not in _chosen:
        _chosen[str(path), key] = _remembered(path, key, workload, candidates)
    return _chosen[str(path), key]


def fixed_rule(device: torch.device) -> str:
    """What is used where nothing may be measured."""
    if device.type == "cpu":
        return "reference"
    return "sdpa" if obstacle("triton", device) else "triton"


def cache_file() -> Path:
    """Where measurements are kept."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bratsml" / "attention.json"


def cache_key(workload: Workload) -> str:
    """Everything that a measurement depends on, readable."""
    parts = [_hardware(workload.device), f"torch {torch.__version__}"]
    if workload.device.type == "cuda":
        parts.append(f"kernels {triton_op.KERNEL_VERSION} on triton {_triton_version()}")
    return " | ".join([*parts, str(workload)])


def _candidates(workload: Workload) -> list[str]:
    """Variants that can run; the reference, which always can, last.

    On a CPU only what needs no compiling: the choice must cost less than it can save there.
    """
    names: tuple[str, ...] = PREFERENCE
    if workload.device.type == "cpu":
        names = ("sdpa", "reference")
    if torch.are_deterministic_algorithms_enabled() and workload.training:
        # The gradients of the others are summed in an order that varies, on a GPU.
        names = tuple(n for n in names if n in ("triton", "reference"))
    allowed = [
        name
        for name in names
        if not obstacle(name, workload.device, training=workload.training, dropout=workload.dropout)
    ]
    return [variant for name in allowed for variant in variants(name)]


def _remembered(path: Path, key: str, workload: Workload, candidates: list[str]) -> str:
    """The choice in the file, put there first if need be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
            content = _read(path)
            known = content["choices"].get(key)
            if known is None or known["chosen"] not in candidates:
                known = measure_all(workload, candidates)
                write_json(path, content | {"choices": content["choices"] | {key: known}})
            return str(known["chosen"])
    except (OSError, ResourceError, Timeout):
        return fixed_rule(workload.device)


def _read(path: Path) -> dict[str, Any]:
    """The file's content; an absent, damaged or foreign one counts as empty."""
    try:
        content = read_json(path)
        if content["format"] == FORMAT and isinstance(content["choices"], dict):
            return dict(content)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return {"format": FORMAT, "choices": {}}


def measure_all(workload: Workload, candidates: list[str]) -> dict[str, Any]:
    """Time and error of every candidate, and which one to use.

    One that fails, or deviates from float64 by more than its number type explains, is out.
    """
    found = measure(workload, candidates)
    fit = {name: result for name, result in found.items() if not result.reason}
    fastest = min((result.milliseconds for result in fit.values()), default=0.0)
    most = fastest * CLOSE.get(workload.device.type, 1.0)
    close = [name for name, result in fit.items() if result.milliseconds <= most]
    ranked = sorted(close, key=lambda name: PREFERENCE.index(name.split()[0]))
    return {
        "chosen": ranked[0] if ranked else "reference",
        "milliseconds": {name: round(result.milliseconds, 4) for name, result in fit.items()},
        "left_out": {name: result.reason for name, result in found.items() if result.reason},
    }


def _hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = read_text(Path("/proc/cpuinfo")).splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _triton_version() -> str:
    if not triton_op.is_installed():
        return "absent"
    import triton

    return str(triton.__version__)
