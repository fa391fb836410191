"""One training step: ours against a plain PyTorch loop on the same model, loss and patch.

Both train MONAI's UNet with MONAI's Dice + cross-entropy and AdamW on the same batch and clip the
gradient; ours goes through the objects that ``fit`` uses. Repetitions are interleaved and a ratio
is taken within each, so that a busy machine slows both alike. Afterwards: what bf16, channels-last
and compile bring to our step here. On a GPU wall time counts; on a CPU the CPU seconds of the
process, which other work on the machine disturbs less.

    python benchmarks/train_step.py --out benchmarks/results/train_step.md
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from torch import Tensor, nn

from bratsml.compute.device import ComputeConfig
from bratsml.data.batch import Batch
from bratsml.errors import ConfigError
from bratsml.files import write_text
from bratsml.tracking.environment import processor
from bratsml.training.hooks import Hooks
from bratsml.training.optim import OptimConfig
from bratsml.training.schedule import ScheduleConfig
from bratsml.training.settings import TrainConfig
from bratsml.training.state import Training

AIM_RATIO = 1.03
CLIP_NORM = 12.0
LR = 1e-3
WARMUP_STEPS = 2
VARIANTS: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "channels-last": {"channels_last": True},
    "compile": {"compile": True},
    "bf16 + channels-last": {"precision": "bf16", "channels_last": True},
}

Step = Callable[[], float]
"""Trains once and returns the loss, so that the device has finished."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return UNet(3, 4, 3, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2), num_res_units=2)


def batch_of(side: int) -> Batch:
    rng = torch.Generator().manual_seed(0)
    image = torch.rand((1, 4, side, side, side), generator=rng)
    label = (image[:, :1] > 0.7).to(torch.uint8)
    return Batch(image=image, label=label, case_ids=["random"])


def target_of(label: Tensor) -> Tensor:
    return label.float().expand(-1, 3, -1, -1, -1)


def plain(batch: Batch, device: torch.device) -> Step:
    """The loop that one would write by hand."""
    model, loss_of = network().to(device), DiceCELoss(sigmoid=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=1e-5, fused=True)

    def step() -> float:
        image = batch.image.to(device, non_blocking=True)
        label = batch.label.to(device, non_blocking=True)
        loss = loss_of(model(image), target_of(label))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return step


def ours(batch: Batch, **compute: Any) -> Step:
    """What one turn of the loop of ``fit`` does."""
    training = Training.set_up(
        ComputeConfig(**compute),
        network(),
        DiceCELoss(sigmoid=True),
        target_of,
        OptimConfig(kind="adamw", lr=LR, weight_decay=1e-5),
        ScheduleConfig(),
        TrainConfig(clip_norm=CLIP_NORM),
        num_batches=1000,
        config_tree={},
    )
    hooks = Hooks([])

    def step() -> float:
        training.set_lr()
        result = training.step([batch])
        training.position.hear(result, 1)
        hooks.on_step(training.position.step, result.loss)
        return result.loss

    return step


def timed(step: Step, clock: Callable[[], float]) -> float:
    start = clock()
    step()
    return clock() - start


def interleaved(
    steps: dict[str, Step], repeats: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of every step, one after another; who begins alternates."""
    for step in steps.values():
        for _ in range(WARMUP_STEPS):
            step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats):
        for name in list(steps) if repeat % 2 else reversed(steps):
            seconds[name].append(timed(steps[name], clock))
    return seconds


def ratios(over: list[float], under: list[float]) -> tuple[float, float, float]:
    """Median and quartiles of the ratio within each repetition."""
    each = [a / b for a, b in zip(over, under, strict=True)]
    low, _, high = statistics.quantiles(each, n=4)
    return statistics.median(each), low, high


def report(side: int, repeats: int, variants: list[str]) -> Iterator[str]:
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    clock = time.perf_counter if on_gpu else time.process_time
    hardware = torch.cuda.get_device_name() if on_gpu else f"{processor()}, {os.cpu_count()} cores"
    batch = batch_of(side)
    yield "# Training step against a plain PyTorch loop"
    yield ""
    yield f"{time.strftime('%Y-%m-%d')}, {hardware}, {torch.get_num_threads()} thread(s),"
    yield f"torch {torch.__version__}, Python {platform.python_version()}."
    num_parameters = sum(weight.numel() for weight in network().parameters())
    yield f"UNet of {num_parameters:,} parameters, patch {side} cubed, batch 1,"
    unit = "wall" if on_gpu else "CPU"
    yield f"{unit} seconds, {repeats} interleaved repetitions (a third for the variants)."
    yield ""
    yield "| step | median s | ratio, median | quartiles | against |"
    yield "|---|---|---|---|---|"
    seconds = interleaved({"plain": plain(batch, device), "ours": ours(batch)}, repeats, clock)
    median, low, high = ratios(seconds["ours"], seconds["plain"])
    yield f"| plain loop | {statistics.median(seconds['plain']):.4f} | 1 | | |"
    yield row("ours", seconds["ours"], (median, low, high), "plain loop")
    for name in variants:
        try:
            steps = {"ours": ours(batch), name: ours(batch, **VARIANTS[name])}
            seconds = interleaved(steps, max(4, repeats // 3), clock)
        except (ConfigError, torch._dynamo.exc.TorchDynamoException) as error:
            yield f"| ours, {name} | - | not on this machine: {type(error).__name__} | | |"
            continue
        yield row(f"ours, {name}", seconds[name], ratios(seconds[name], seconds["ours"]), "ours")
    yield ""
    verdict = "reached" if median <= AIM_RATIO else "MISSED"
    yield f"ours / plain = {median:.3f}; aim: at most {AIM_RATIO}, {verdict}."


def row(name: str, seconds: list[float], found: tuple[float, float, float], against: str) -> str:
    median, low, high = found
    return (
        f"| {name} | {statistics.median(seconds):.4f} | {median:.3f} | {low:.3f} to {high:.3f} "
        f"| {against} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=128 if torch.cuda.is_available() else 64)
    parser.add_argument("--repeats", type=int, default=50 if torch.cuda.is_available() else 12)
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--out", type=Path, help="keep the report in this file")
    arguments = parser.parse_args()
    lines = []
    for line in report(arguments.side, arguments.repeats, arguments.variants):
        print(line, flush=True)
        lines.append(line)
    if arguments.out:
        write_text(arguments.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
