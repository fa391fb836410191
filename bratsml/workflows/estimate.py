"""What a training will take on this machine, measured on one step before the work starts."""

from __future__ import annotations

import math
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context

import numpy as np
import torch
from torch import nn

from bratsml.compute.device import autocast_of, choose_device
from bratsml.config import Tree, build_config
from bratsml.data.folds import Split
from bratsml.data.loader import PatchLoader, num_workers
from bratsml.data.pool import usable_cores
from bratsml.data.store import Store
from bratsml.errors import ResourceError
from bratsml.experiment import Experiment
from bratsml.geometry import Shape
from bratsml.labels import get_scheme
from bratsml.losses.deep_supervision import DeepSupervision
from bratsml.models.registry import neighbours_of
from bratsml.workflows.console import duration, say, size

CHECKPOINTS_KEPT = 3
"""Last, the one before it, and best."""
BYTES_PER_PARAMETER_KEPT = 12
"""float32 weights and the optimizer's two moments."""
FOLD_SECONDS = 20.0
"""Around the training of a fold: starting, its trace, last scores, pictures."""
STEPS_TIMED = 3
"""The first ones also load code and find memory."""
BATCHES_TIMED = 3
"""Augmentations come by chance, so one batch says little."""


@dataclass(frozen=True)
class StepCost:
    """One measured batch, training step and inference window.

    Seconds are those of a machine with nothing else to do: on a GPU wall time, on a CPU the work of
    all threads shared out over its cores.

    Attributes:
        batch_seconds: Reading and augmenting one batch.
        step_seconds: Forward, backward and update of one batch.
        window_seconds: Forward of one window.
        memory_bytes: Peak of the device (GPU) or of the process (CPU).
        num_parameters: Of the network.
    """

    batch_seconds: float
    step_seconds: float
    window_seconds: float
    memory_bytes: int
    num_parameters: int


@dataclass(frozen=True)
class Estimate:
    """What one fold will take with the machine to itself; ``batches`` are those of an epoch."""

    fold_seconds: float
    memory_bytes: int
    disk_bytes: int
    device: str
    batches: int = 0


def estimate(experiment: Experiment, store: Store, split: Split) -> Estimate:
    """Measure one step and scale it to a fold of average size.

    Raises:
        ResourceError: The step does not fit into memory; names the settings to lower.
    """
    device = choose_device(experiment.compute)
    volume = usual_shape(store)
    if device.type == "cuda":
        # in a process of its own, so that this one takes no GPU memory from the folds
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            tree, scheme = experiment.tree(), store.label_scheme
            cost = pool.submit(_measure_tree, tree, scheme, volume).result()
    else:
        cost = measure_step(experiment, store.label_scheme, volume)
    cost = replace(cost, batch_seconds=_time_batch(experiment, store, split, device))
    return scale(cost, experiment, store, split, device)


def scale(
    cost: StepCost, experiment: Experiment, store: Store, split: Split, device: torch.device
) -> Estimate:
    """A fold of average size, from what one step costs."""
    shapes = [store.meta(case_id).shape for case_id in store.case_ids]
    cases = sum(len(fold) for fold in split.folds)
    num_validation = cases / len(split.folds)
    num_training = cases - num_validation + len(split.training_only)
    steps = math.ceil(
        (experiment.loader.samples_per_epoch or num_training) / experiment.loader.batch_size
    )
    windows = float(np.mean([_windows(experiment, shape) for shape in shapes]))
    validations = math.ceil(experiment.train.epochs / experiment.train.validate_every) + 1
    # workers read ahead while a GPU computes; on a CPU everything shares the cores
    one_step = (
        max(cost.step_seconds, cost.batch_seconds)
        if on_gpu(device)
        else cost.step_seconds + cost.batch_seconds
    )
    seconds = FOLD_SECONDS + (
        experiment.train.epochs * steps * one_step
        + validations * num_validation * windows * cost.window_seconds
    )
    disk = CHECKPOINTS_KEPT * cost.num_parameters * BYTES_PER_PARAMETER_KEPT
    return Estimate(seconds, cost.memory_bytes, disk, device.type, steps)


def usual_shape(store: Store) -> Shape:
    """Voxels of a case of usual size: the median of each side."""
    shapes = [store.meta(case_id).shape for case_id in store.case_ids]
    x, y, z = (int(side) for side in np.median(shapes, axis=0))
    return x, y, z


def say_estimate(one_fold: Estimate, num_folds: int, parallel: int) -> None:
    """Print one line: hours, memory and disk for the whole work."""
    at_once = min(num_folds, max(parallel, 1))
    say(
        f"this will take about {duration(total_seconds(one_fold, num_folds, parallel))} on this "
        f"machine ({one_fold.device}, {at_once} of {num_folds} fold{'s' * (num_folds != 1)} at a "
        f"time), {size(at_once * one_fold.memory_bytes)} of memory, "
        f"{size(num_folds * one_fold.disk_bytes)} of disk, unless it ends early"
    )


def total_seconds(one_fold: Estimate, num_folds: int, parallel: int) -> float:
    """Wall time of all folds: GPUs are given one fold each, the cores of a CPU are shared."""
    if one_fold.device == "cpu":
        return num_folds * one_fold.fold_seconds
    return math.ceil(num_folds / max(parallel, 1)) * one_fold.fold_seconds


def measure_step(experiment: Experiment, label_scheme: str, volume: Shape) -> StepCost:
    """Time the fastest of a few training steps and windows, on random numbers.

    ``batch_seconds`` is left at 0.

    Args:
        volume: Voxels of a case of usual size.
    """
    device = choose_device(experiment.compute)
    output = experiment.output.build(get_scheme(label_scheme))
    model = experiment.build_model(output.num_channels).to(device)
    loss = DeepSupervision(experiment.loss.build(output.exclusive))
    optimizer = torch.optim.AdamW(model.parameters())
    batch, (x, y, z) = experiment.loader.batch_size, experiment.loader.patch
    deeper = z + 2 * neighbours_of(experiment.model)
    image = torch.rand((batch, len(experiment.data.modalities), x, y, deeper), device=device)
    label = torch.zeros((batch, 1, x, y, z), dtype=torch.uint8, device=device)
    seconds = []
    try:
        for _ in range(STEPS_TIMED):
            start = _now(device)
            with autocast_of(experiment.compute, device):
                value = loss(model(image), output.target(label))
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
            _wait_for(device)
            seconds.append(_now(device) - start)
        window_seconds = time_window(model, experiment, volume, device)
    except torch.cuda.OutOfMemoryError as error:
        raise ResourceError(
            "one training step does not fit into this GPU's memory; lower loader.patch or "
            "loader.batch_size, or set model.checkpointing=true and compute.precision=bf16"
        ) from error
    parameters = sum(p.numel() for p in model.parameters())
    return StepCost(0.0, min(seconds), window_seconds, peak_memory(device), parameters)


def _measure_tree(tree: Tree, label_scheme: str, volume: Shape) -> StepCost:
    return measure_step(build_config(Experiment, tree), label_scheme, volume)


def time_window(
    model: nn.Module, experiment: Experiment, volume: Shape, device: torch.device
) -> float:
    """Seconds of one forward pass: the fastest of a few.

    Args:
        volume: Voxels of a case, for windows that are as long as the volume.
    """
    model.eval()
    sides = (window or side for window, side in zip(experiment.window, volume, strict=True))
    window = torch.rand((1, len(experiment.data.modalities), *sides), device=device)
    seconds = []
    for _ in range(STEPS_TIMED):
        start = _now(device)
        with torch.inference_mode(), autocast_of(experiment.compute, device):
            model(window)
        _wait_for(device)
        seconds.append(_now(device) - start)
    return min(seconds)


def _time_batch(experiment: Experiment, store: Store, split: Split, device: torch.device) -> float:
    """Seconds until the loader can give the next batch, all its workers at work."""
    alone = experiment.loader.model_copy(update={"workers": 0})
    loader = PatchLoader(
        store,
        split.training(0),
        alone,
        experiment.seed,
        experiment.data.modalities,
        neighbours_of(experiment.model),
    )
    batches = islice(loader.epoch(0), BATCHES_TIMED + 1)
    next(batches)  # the first one loads code
    start = _now(device)
    count = sum(1 for _ in batches)
    seconds = (_now(device) - start) / max(count, 1)
    return seconds / max(1, num_workers(experiment.loader.workers)) if on_gpu(device) else seconds


def on_gpu(device: torch.device) -> bool:
    """Whether the work is done elsewhere than on this machine's cores."""
    return device.type != "cpu"


def _now(device: torch.device) -> float:
    """A clock in seconds: of the wall, or of the work done by this process over all cores."""
    if on_gpu(device):
        return time.perf_counter()
    return time.process_time() / usable_cores()


def _windows(experiment: Experiment, shape: Shape) -> int:
    """Windows that cover a volume, times the mirrored passes."""
    count = 1
    for side, window in zip(shape, experiment.window, strict=True):
        if window == 0:  # as long as the volume
            continue
        stride = max(1, int(window * (1 - experiment.inference.overlap)))
        count *= max(1, math.ceil((side - window) / stride) + 1)
    return count * 2 ** len(experiment.inference.flips)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Bytes of the device (GPU, reserved) or of the process (CPU) so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
