"""What a training will take on this machine, measured on one step before the work starts."""

from __future__ import annotations

import math
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch
from torch import nn

from bratsml.compute.device import autocast_of, choose_device
from bratsml.config import Tree, build_config
from bratsml.data.cases import MODALITIES
from bratsml.data.folds import Split
from bratsml.data.store import Store
from bratsml.errors import ResourceError
from bratsml.experiment import Experiment
from bratsml.labels import get_scheme
from bratsml.workflows.console import duration, say, size

CHECKPOINTS_KEPT = 3
"""Last, the one before it, and best."""
BYTES_PER_PARAMETER_KEPT = 12
"""float32 weights and the optimizer's two moments."""


@dataclass(frozen=True)
class StepCost:
    """One measured training step and one inference window.

    Attributes:
        step_seconds: Forward, backward and update of one batch.
        window_seconds: Forward of one window.
        memory_bytes: Peak of the device (GPU) or of the process (CPU).
        num_parameters: Of the network.
    """

    step_seconds: float
    window_seconds: float
    memory_bytes: int
    num_parameters: int


@dataclass(frozen=True)
class Estimate:
    """What one fold will take."""

    fold_seconds: float
    memory_bytes: int
    disk_bytes: int
    device: str


def estimate(experiment: Experiment, store: Store, split: Split) -> Estimate:
    """Measure one step and scale it to a fold of average size.

    Raises:
        ResourceError: The step does not fit into memory; names the settings to lower.
    """
    device = choose_device(experiment.compute)
    if device.type == "cuda":
        # in a process of its own, so that this one takes no GPU memory from the folds
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            cost = pool.submit(_measure_tree, experiment.tree(), store.label_scheme).result()
    else:
        cost = measure_step(experiment, store.label_scheme)
    cases = sum(len(fold) for fold in split.folds)
    num_validation = cases / len(split.folds)
    num_training = cases - num_validation + len(split.training_only)
    steps = math.ceil(
        (experiment.loader.samples_per_epoch or num_training) / experiment.loader.batch_size
    )
    windows = float(np.mean([_windows(experiment, store.meta(c).shape) for c in store.case_ids]))
    validations = math.ceil(experiment.train.epochs / experiment.train.validate_every) + 1
    seconds = (
        experiment.train.epochs * steps * cost.step_seconds
        + validations * num_validation * windows * cost.window_seconds
    )
    disk = CHECKPOINTS_KEPT * cost.num_parameters * BYTES_PER_PARAMETER_KEPT
    return Estimate(seconds, cost.memory_bytes, disk, device.type)


def say_estimate(one_fold: Estimate, num_folds: int, parallel: int) -> None:
    """Print one line: hours, memory and disk for the whole work."""
    rounds = math.ceil(num_folds / max(parallel, 1))
    at_once = min(num_folds, parallel)
    limit = "at most about" if one_fold.fold_seconds else "about"
    say(
        f"this will take {limit} {duration(rounds * one_fold.fold_seconds)} on this machine "
        f"({one_fold.device}, {at_once} of {num_folds} fold{'s' * (num_folds != 1)} at a time), "
        f"{size(at_once * one_fold.memory_bytes)} of memory, "
        f"{size(num_folds * one_fold.disk_bytes)} of disk"
    )


def measure_step(experiment: Experiment, label_scheme: str) -> StepCost:
    """Time the second of two training steps, and one window, on random numbers."""
    device = choose_device(experiment.compute)
    output = experiment.output.build(get_scheme(label_scheme))
    model = experiment.model.build(len(MODALITIES), output.num_channels).to(device)
    loss = experiment.loss.build(output.exclusive)
    optimizer = torch.optim.AdamW(model.parameters())
    shape = (experiment.loader.batch_size, len(MODALITIES), *experiment.loader.patch)
    image = torch.rand(shape, device=device)
    label = torch.zeros((shape[0], 1, *shape[2:]), dtype=torch.uint8, device=device)
    step_seconds = 0.0
    try:
        for _ in range(2):
            start = time.perf_counter()
            with autocast_of(experiment.compute, device):
                value = loss(model(image), output.target(label))
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            _wait_for(device)
            step_seconds = time.perf_counter() - start
        window_seconds = _time_window(model, experiment, device)
    except torch.cuda.OutOfMemoryError as error:
        raise ResourceError(
            "one training step does not fit into this GPU's memory; lower loader.patch or "
            "loader.batch_size, or set model.checkpointing=true and compute.precision=bf16"
        ) from error
    parameters = sum(p.numel() for p in model.parameters())
    return StepCost(step_seconds, window_seconds, _peak_memory(device), parameters)


def _measure_tree(tree: Tree, label_scheme: str) -> StepCost:
    return measure_step(build_config(Experiment, tree), label_scheme)


def _time_window(model: nn.Module, experiment: Experiment, device: torch.device) -> float:
    model.eval()
    window = torch.rand((1, len(MODALITIES), *experiment.window), device=device)
    start = time.perf_counter()
    with torch.inference_mode(), autocast_of(experiment.compute, device):
        model(window)
    _wait_for(device)
    return time.perf_counter() - start


def _windows(experiment: Experiment, shape: tuple[int, int, int]) -> int:
    """Windows that cover a volume, times the mirrored passes."""
    count = 1
    for side, window in zip(shape, experiment.window, strict=True):
        stride = max(1, int(window * (1 - experiment.inference.overlap)))
        count *= max(1, math.ceil((side - window) / stride) + 1)
    return count * 2 ** len(experiment.inference.flips)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
