"""SwinUNETR with each attention backend: time, memory and error of forward pass and training step.

The networks have the same weights and patch; MONAI's own is the reference. On a GPU they are the
two published sizes in bf16, with peak allocated memory, aims and all; on a CPU smaller ones in
float32, in CPU seconds, which other work on the machine disturbs less, with the peak of live
tensors. Backends that cannot run here are named with the reason. The error is that of the logits
against MONAI's in float32, relative, in the Frobenius norm.

Below it, on any machine: the memory of a training step at the published sizes, from a trace with
tensors that have shapes only (bf16 autocast, AdamW, batch 1).

    python benchmarks/attention.py --out benchmarks/results/attention.md
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn import functional

from bratsml.files import write_text
from bratsml.models.attention.backends import obstacle
from bratsml.models.attention.swin import describe_attention
from bratsml.models.swinunetr import SwinUNETRConfig
from bratsml.tracking.environment import processor

AIM_SPEEDUP = 2.0
AIM_GB = 6.0
BACKENDS = ("reference", "sdpa", "flex", "triton", "auto")
TRACED = ("reference", "sdpa", "triton")
GB = 1e9
WARMUP = 3


@dataclass(frozen=True)
class Size:
    """A patch and the width of the network."""

    patch: tuple[int, int, int]
    feature_size: int

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.patch))} f{self.feature_size}"


PUBLISHED = (Size((96, 96, 96), 24), Size((128, 128, 128), 48))
SMALL = (Size((64, 32, 32), 24), Size((64, 64, 64), 24))
LARGEST = (Size((160, 128, 128), 48), Size((192, 192, 160), 24))
"""The largest patches, in steps of 32, whose traced step with our kernels is below 8 GB."""


@dataclass(frozen=True)
class Found:
    """What a pass took."""

    seconds: float
    peak_gb: float


def network_of(size: Size, backend: str) -> nn.Module:
    torch.manual_seed(0)
    return SwinUNETRConfig(feature_size=size.feature_size, attention=backend).build(4, 3)


def image_of(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    image = torch.randn((1, 4, *size.patch), generator=rng)
    return image.to(device), (image[:, :3] > 0.5).float().to(device)


def precision(device: torch.device) -> Any:
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


def passes(network: nn.Module, size: Size, device: torch.device) -> dict[str, Callable[[], None]]:
    """The two things that are measured, each ending when the device has finished."""
    image, target = image_of(size, device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)

    def forward() -> None:
        network.eval()
        with torch.no_grad(), precision(device):
            network(image).sum().item()

    def training_step() -> None:
        network.train()
        with precision(device):
            logits = network(image)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return {"forward": forward, "training step": training_step}


def measure(network: nn.Module, run: Callable[[], None], repeats: int, on_gpu: bool) -> Found:
    """Median time and peak memory; the memory of a CPU in a repetition of its own."""
    clock = time.perf_counter if on_gpu else time.process_time
    for _ in range(WARMUP if on_gpu else 1):
        run()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        start = clock()
        run()
        seconds.append(clock() - start)
    if on_gpu:
        torch.cuda.synchronize()
        peak = float(torch.cuda.max_memory_allocated())
    else:
        peak = peak_of_live_tensors(network, run)
    return Found(statistics.median(seconds), peak / GB)


def peak_of_live_tensors(network: nn.Module, run: Callable[[], None]) -> float:
    """Bytes, weights included."""
    tracker = MemTracker()
    tracker.track_external(network)
    with tracker:
        run()
    return float(sum(peak["Total"] for peak in tracker.get_tracker_snapshot("peak").values()))


def logits_of(network: nn.Module, size: Size, device: torch.device) -> Tensor:
    with torch.no_grad(), precision(device):
        return network.to(device).eval()(image_of(size, device)[0]).float()


def exact_logits(size: Size, device: torch.device) -> Tensor:
    with torch.no_grad():
        network = network_of(size, "reference").to(device).eval()
        return network(image_of(size, device)[0])


def rows(size: Size, backends: list[str], repeats: int, device: torch.device) -> Iterator[str]:
    """A row per backend and pass; on a GPU whether the aims are reached."""
    on_gpu = device.type == "cuda"
    exact = exact_logits(size, device)
    found: dict[str, dict[str, Found]] = {}
    for backend in backends:
        network = network_of(size, backend).to(device)
        try:
            error = float((logits_of(network, size, device) - exact).norm() / exact.norm())
            runs = passes(network, size, device)
            found[backend] = {
                name: measure(network, run, repeats, on_gpu) for name, run in runs.items()
            }
        except torch.OutOfMemoryError:
            yield f"| {size} | {backend} | - | out of memory | | | | |"
            continue
        told = describe_attention(network)
        own = told.get("attention.kernel", "")  # MONAI's modules do not tell the two apart
        kernels = {
            "forward": told.get("attention.inference", own),
            "training step": told.get("attention.training", own),
        }
        for name, result in found[backend].items():
            base = found["reference"][name].seconds if "reference" in found else float("nan")
            yield (
                f"| {size} | {backend} | {name} | {result.seconds:.4f} | "
                f"{base / result.seconds:.2f} | {result.peak_gb:.2f} | {error:.1e} | "
                f"{kernels[name]} |"
            )
        del network, runs
        gc.collect()
        if on_gpu:
            torch.cuda.empty_cache()


def traced_gb(size: Size, backend: str) -> dict[str, float]:
    """Peak memory of the second of two training steps, by kind, without running anything."""
    network = network_of(size, backend)
    # Buffers made on the way, such as constants of a mask, may be real: they count all the same.
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in network.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[name] = nn.Parameter(mode.from_tensor(weight.detach()))
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = mode.from_tensor(buffer)
        optimizer = torch.optim.AdamW(network.parameters(), foreach=False)
        image, target = torch.empty(1, 4, *size.patch), torch.empty(1, 3, *size.patch)
        tracker = MemTracker()
        tracker.track_external(network, optimizer)
        with tracker:
            for step in range(2):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    logits = network(image)
                functional.binary_cross_entropy_with_logits(logits.float(), target).backward()
                optimizer.step()
                optimizer.zero_grad()
                if step == 0:
                    tracker.reset_mod_stats()
    (peak,) = tracker.get_tracker_snapshot("peak").values()
    return {str(kind).rsplit(".", 1)[-1]: size / GB for kind, size in peak.items()}


def traced_rows() -> Iterator[str]:
    for size in PUBLISHED:
        for backend in TRACED:
            yield traced_row(size, backend)
    for size in LARGEST:
        yield traced_row(size, "triton")


def traced_row(size: Size, backend: str) -> str:
    kinds = traced_gb(size, backend)
    fixed = sum(kinds[kind] for kind in ("PARAM", "BUFFER", "OPT"))
    moving = kinds["ACT"] + kinds["TEMP"] + kinds["GRAD"]
    return f"| {size} | {backend} | {kinds['Total']:.2f} | {fixed:.2f} | {moving:.2f} |"


def split_by_obstacle(
    backends: list[str], device: torch.device
) -> tuple[list[str], dict[str, str]]:
    """Those that can train here, and why the others cannot."""
    reasons = {name: obstacle(name, device) for name in backends if name != "auto"}
    return (
        [name for name in backends if not reasons.get(name)],
        {name: reason for name, reason in reasons.items() if reason},
    )


def report(arguments: argparse.Namespace) -> Iterator[str]:
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    hardware = torch.cuda.get_device_name() if on_gpu else f"{processor()}, {os.cpu_count()} cores"
    can_run, cannot = split_by_obstacle(arguments.backends, device)
    yield "# SwinUNETR with each attention backend"
    yield ""
    yield f"{time.strftime('%Y-%m-%d')}, {hardware}, {torch.get_num_threads()} thread(s),"
    yield f"torch {torch.__version__}, Python {platform.python_version()}."
    kind = "bf16 autocast, wall" if on_gpu else "float32, CPU"
    yield f"Batch 1, AdamW, {kind} seconds, median of {arguments.repeats} repetitions; GB are 1e9."
    yield ""
    yield "| size | backend | pass | median s | times as fast | peak GB | error | kernel |"
    yield "|---|---|---|---|---|---|---|---|"
    for size in PUBLISHED if on_gpu else SMALL:
        yield from rows(size, can_run, arguments.repeats, device)
    yield ""
    for name, reason in cannot.items():
        yield f"Not measured: {name}, because {reason}."
    if not on_gpu:
        yield "A GPU is what these backends are for; the speeds above say nothing about one."
    yield f"Aims on a GPU: a training step {AIM_SPEEDUP:g} times as fast as the reference's,"
    yield f"128x128x128 f48 below {AIM_GB:g} GB; {'see above' if on_gpu else 'time NOT MEASURED'}."
    yield ""
    yield "## Memory of a training step, traced"
    yield ""
    yield "What PyTorch's tensors need at the peak, without allocator and convolution workspace."
    yield "`sdpa` is traced as a CPU computes it, with every weight kept; a GPU may keep fewer."
    yield ""
    yield "| size | backend | peak GB | weights, optimizer | activations, gradients, temporary |"
    yield "|---|---|---|---|---|"
    yield from traced_rows()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30 if torch.cuda.is_available() else 5)
    parser.add_argument("--backends", nargs="*", choices=BACKENDS, default=list(BACKENDS))
    parser.add_argument("--out", type=Path, help="keep the report in this file")
    arguments = parser.parse_args()
    lines = []
    for line in report(arguments):
        print(line, flush=True)
        lines.append(line)
    if arguments.out:
        write_text(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
