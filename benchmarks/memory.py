"""Predicted against measured memory of training and inference.

Every configuration is predicted from a trace with tensors that have shapes but no values, then the
very same steps and window are run. On a CPU the measured peak is that of the allocations which
PyTorch's profiler sees, on a GPU that of its allocator (``torch.cuda.max_memory_allocated``).

Below it, predictions only: the published configurations on a GPU, and the largest patch in 8 GB.

    python benchmarks/memory.py --out benchmarks/results/memory.md
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from bratsml.compute.device import CONTEXT_MB, seed_everything
from bratsml.config import with_overrides
from bratsml.experiment import Experiment
from bratsml.files import write_text
from bratsml.tracking.environment import processor
from bratsml.tuning.memory import FRAGMENTATION, check_budget, predict_memory
from bratsml.tuning.memory_probe import ask_probe
from bratsml.tuning.memory_rehearsal import build_network, set_up

CHANNELS = 4
AIM_OFF, AIM_LOW = 0.10, 0.05
BUDGET_GB = 8.0
GB = 1e9


@dataclass(frozen=True)
class Case:
    """One configuration; ``changes`` are laid over the default experiment."""

    model: dict[str, Any]
    patch: tuple[int, int, int]
    precision: str = "32"
    batch: int = 1
    train: tuple[tuple[str, Any], ...] = ()

    @property
    def experiment(self) -> Experiment:
        """As settings."""
        changes = {
            "model": self.model,
            "loader": {"patch": list(self.patch), "batch_size": self.batch},
            "compute": {"precision": self.precision},
            "train": dict(self.train),
        }
        return with_overrides(Experiment(), changes)

    @property
    def columns(self) -> str:
        """As cells of a table."""
        model = self.model
        how = [model[name] for name in ("attention",) if name in model]
        how += ["checkpointing"] if model.get("checkpointing") else []
        how += [f"batch {self.batch}"] if self.batch > 1 else []
        how += [f"{name} {value}" for name, value in self.train]
        width = f" f{model['feature_size']}" if "feature_size" in model else ""
        size = "x".join(map(str, self.patch))
        return f"{model['kind']}{width} | {size} | {self.precision} | {', '.join(how) or '-'}"


def unet(**more: Any) -> dict[str, Any]:
    return {"kind": "unet", **more}


def swin(attention: str, feature_size: int = 24, **more: Any) -> dict[str, Any]:
    return {
        "kind": "swinunetr",
        "attention": attention,
        "feature_size": feature_size,
        **more,
    }


SMALL, MIDDLE, CUBE = (64, 32, 32), (64, 64, 32), (64, 64, 64)
ON_CPU = (
    Case(unet(), (32, 32, 32)),
    Case(unet(), CUBE),
    Case(unet(), CUBE, "bf16"),
    Case(unet(checkpointing=True), CUBE),
    Case(unet(checkpointing=True), CUBE, "bf16"),
    Case(unet(), (48, 48, 48), batch=2),
    Case(unet(), (48, 48, 48), train=(("accumulate", 2), ("ema_decay", 0.99))),
    Case(swin("reference"), SMALL),
    Case(swin("sdpa"), SMALL),
    Case(swin("reference"), SMALL, "bf16"),
    Case(swin("sdpa"), SMALL, "bf16"),
    Case(swin("reference", checkpointing=True), SMALL),
    Case(swin("sdpa", checkpointing=True), SMALL),
    Case(swin("sdpa", 12), SMALL),
    Case(swin("reference", 12), SMALL, "bf16"),
    Case({"kind": "segresnet"}, (32, 32, 32)),
    Case({"kind": "dynunet"}, (32, 32, 32)),
)
LARGE, PUBLISHED = (96, 96, 96), (128, 128, 128)
ON_GPU = (
    Case(unet(), LARGE),
    Case(unet(), PUBLISHED),
    Case(unet(), PUBLISHED, "bf16"),
    Case(unet(checkpointing=True), PUBLISHED, "bf16"),
    Case(unet(), PUBLISHED, "bf16", batch=2),
    Case(swin("reference"), LARGE, "bf16"),
    Case(swin("sdpa"), LARGE, "bf16"),
    Case(swin("triton"), LARGE, "bf16"),
    Case(swin("sdpa"), LARGE),
    Case(swin("triton"), LARGE),
    Case(swin("reference", checkpointing=True), LARGE, "bf16"),
    Case(swin("triton", checkpointing=True), LARGE, "bf16"),
    Case(swin("reference", 48), PUBLISHED, "bf16"),
    Case(swin("sdpa", 48), PUBLISHED, "bf16"),
    Case(swin("triton", 48), PUBLISHED, "bf16"),
    Case({"kind": "segresnet"}, LARGE, "bf16"),
    Case({"kind": "dynunet"}, PUBLISHED, "bf16"),
    Case({"kind": "mednext"}, LARGE, "bf16"),
)


def measured_on_cpu(experiment: Experiment) -> tuple[float, float]:
    """Peaks of training and of a window in bytes, as the profiler sees them."""
    compute = {"compute": {"device": "cpu"}}
    experiment = with_overrides(experiment, compute)
    seed_everything(0)
    marks = []
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        rehearsal = set_up(experiment, build_network(experiment, CHANNELS), CHANNELS)
        gc.collect()
        rehearsal.make_optimizer_state()
        rehearsal.steps(1)
        marks.append(time.time_ns())
        rehearsal.steps(1)
        marks.append(time.time_ns())
        rehearsal.window()
        marks.append(time.time_ns())
    start, between, end = marks
    held, training, inference = 0, 0, 0
    for when, num_bytes in sorted(allocations(profiler)):
        held += num_bytes
        if start <= when <= between:
            training = max(training, held)
        elif between <= when <= end:
            inference = max(inference, held)
    return training, inference


def allocations(profiler: Any) -> Iterator[tuple[int, int]]:
    """Time in ns and bytes of every allocation, and of every release, negative."""
    waiting = list(profiler.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag == _EventType.Allocation:
            yield event.start_time_ns, event.extra_fields.alloc_size


def measured_on_gpu(experiment: Experiment) -> tuple[float, float]:
    reading = ask_probe(experiment, CHANNELS)
    return reading.peak_mb * 1e6, reading.inference_peak_mb * 1e6


@dataclass(frozen=True)
class Row:
    """Predicted and measured, GB."""

    case: Case
    predicted: tuple[float, float]
    measured: tuple[float, float]
    seconds: float

    @property
    def ratios(self) -> tuple[float, float]:
        """Of training and inference."""
        training, inference = zip(self.predicted, self.measured, strict=True)
        return training[0] / training[1], inference[0] / inference[1]

    def __str__(self) -> str:
        cells = [
            f"{p:.3f} | {m:.3f} | {r:.3f}{'' if reached(r) else ' (!)'}"
            for p, m, r in zip(self.predicted, self.measured, self.ratios, strict=True)
        ]
        return f"| {self.case.columns} | {' | '.join(cells)} | {self.seconds:.1f} |"


def reached(ratio: float) -> bool:
    return 1 - AIM_LOW <= ratio <= 1 + AIM_OFF


def compare(case: Case, on_gpu: bool) -> Row:
    start = time.process_time()
    estimate = predict_memory(case.experiment, device="cuda" if on_gpu else "cpu")
    seconds = time.process_time() - start
    measure = measured_on_gpu if on_gpu else measured_on_cpu
    training, inference = measure(case.experiment)
    gc.collect()
    return Row(
        case,
        (estimate.peak_mb / 1000, estimate.inference_peak_mb / 1000),
        (training / GB, inference / GB),
        seconds,
    )


def predicted_rows() -> Iterator[str]:
    for attention, published in (("reference", "11.1"), ("sdpa", "-"), ("triton", "5.5")):
        case = Case(swin(attention, 48), PUBLISHED, "bf16")
        found = predict_memory(case.experiment)
        parts = (found.weights_mb, found.optimizer_mb, found.gradients_mb)
        yield (
            f"| {case.columns} | {found.peak_mb / 1000:.2f} | {sum(parts) / 1000:.2f} | "
            f"{found.activations_mb / 1000:.2f} | {found.temporary_mb / 1000:.2f} | "
            f"{found.inference_peak_mb / 1000:.2f} | {published} |"
        )


def largest_cube(feature_size: int) -> str:
    """The last cube in steps of 32 that fits, as a sentence."""
    said = ""
    for side in range(128, 257, 32):
        case = Case(swin("triton", feature_size), (side, side, side), "bf16")
        verdict = check_budget(case.experiment, BUDGET_GB)
        if not verdict.fits:
            return f"{said} The next, {side} cubed, does not fit: {verdict.reason}."
        said = f"SwinUNETR f{feature_size}: **{side} cubed** ({verdict.reason})."
    return said


def report(arguments: argparse.Namespace) -> Iterator[str]:
    on_gpu = torch.cuda.is_available()
    hardware = torch.cuda.get_device_name() if on_gpu else f"{processor()}, {os.cpu_count()} cores"
    yield "# Memory, predicted and measured"
    yield ""
    yield f"{time.strftime('%Y-%m-%d')}, {hardware}, {torch.get_num_threads()} thread(s),"
    yield f"torch {torch.__version__}, Python {platform.python_version()}."
    yield "AdamW, GB are 1e9 bytes; the peak of the second training step, and of one window in"
    yield "validation. Measured: " + (
        "torch.cuda.max_memory_allocated." if on_gpu else "allocations seen by PyTorch's profiler."
    )
    yield ""
    yield (
        "| model | patch | precision | | training predicted | measured | ratio "
        "| inference predicted | measured | ratio | CPU seconds to predict |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    rows = []
    cases = ON_GPU if on_gpu else ON_CPU
    for number in arguments.only or range(len(cases)):
        rows.append(compare(cases[number], on_gpu))
        yield str(rows[-1])
    yield ""
    yield from summary(rows)
    if arguments.only:
        return
    yield ""
    yield "## Predicted for a GPU, not measured"
    yield ""
    yield "Predictions, all of them: GB at the peak of training; batch 1, AdamW, bf16. The last"
    yield "column is a trace of network, plain loss and optimizer done before this oracle existed."
    yield ""
    yield (
        "| model | patch | precision | | peak | weights, optimizer, gradients | activations "
        "| temporary | inference peak | earlier trace |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    yield from predicted_rows()
    yield ""
    yield (
        f"Largest cubes with `triton` in {BUDGET_GB:g} GB, of which {CONTEXT_MB / 1000:g} GB are "
        f"kept for CUDA's context and {FRAGMENTATION:.0%} of the peak for fragmentation:"
    )
    yield ""
    yield f"- {largest_cube(48)}"
    yield f"- {largest_cube(24)}"


def summary(rows: list[Row]) -> Iterator[str]:
    for place, name in enumerate(("Training", "Inference")):
        ratios = [row.ratios[place] for row in rows]
        good = sum(map(reached, ratios))
        yield (
            f"{name}: {good} of {len(ratios)} within the aim (at most {AIM_OFF:.0%} too high, "
            f"at most {AIM_LOW:.0%} too low; misses are marked with !), ratios from "
            f"{min(ratios):.3f} to {max(ratios):.3f}."
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="keep the report in this file")
    parser.add_argument("--only", type=int, nargs="*", help="rows of the table, from 0")
    arguments = parser.parse_args()
    lines = []
    for line in report(arguments):
        print(line, flush=True)
        lines.append(line)
    if arguments.out:
        write_text(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
