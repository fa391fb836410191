"""What an experiment will cost on this machine, from a few real training steps."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bratsml.compute.device import choose_device, count_gpus
from bratsml.config import with_overrides
from bratsml.data.extra import extra_of, split_of
from bratsml.data.folds import Split
from bratsml.data.store import Store
from bratsml.experiment import Experiment
from bratsml.models.registry import count_parameters
from bratsml.tracking.tracker import NullTracker
from bratsml.training.hooks import Hook
from bratsml.training.transfer import freeze
from bratsml.workflows.console import console, duration, say, size
from bratsml.workflows.estimate import (
    Estimate,
    StepCost,
    peak_memory,
    scale,
    time_window,
    total_seconds,
    usual_shape,
)
from bratsml.workflows.fold import EndedEarly, FoldWork, train_network
from bratsml.workflows.request import prepare_experiment

STEPS = 20
"""Batches timed, after those of one update that warm up."""
LONGEST_SECONDS = 600.0
"""After so long the steps done by then have to do."""
BYTES_PER_WEIGHT = 4
PROBABILITIES_BYTES = 0.5e6
"""Of one validation case; see :mod:`bratsml.evaluation.kept`."""
VOLUMES_AT_ONCE = 3
"""Logits, their weights and their sum over mirrored passes, while a whole case is predicted."""


@dataclass(frozen=True)
class Price:
    """What was measured and what follows from it.

    Attributes:
        timed: Batches that were timed.
        batch_seconds: Median time of one batch, waiting for the loader included.
        batches: In one epoch of one fold.
        one_fold: Time, device memory and checkpoints of a fold.
        num_folds: Of the split.
        parallel: Folds at a time.
        store_bytes: Of the preprocessed cases.
        disk_bytes: Of all folds: checkpoints, logged models, kept probabilities.
        host_bytes: Largest memory of this process and its loader workers, whole cases included.
    """

    timed: int
    batch_seconds: float
    batches: int
    one_fold: Estimate
    num_folds: int
    parallel: int
    store_bytes: int
    disk_bytes: int
    host_bytes: int

    @property
    def total_seconds(self) -> float:
        """Of all folds."""
        return total_seconds(self.one_fold, self.num_folds, self.parallel)


def say_price(experiment: Experiment, data: str) -> Price:
    """Measure and print what a cross-validation of the experiment takes here.

    Args:
        data: Folder of cases or a store; the phantom set if empty.

    Raises:
        BratsmlError: The data, the machine or its memory will not do.
    """
    prepared = prepare_experiment(experiment, data)
    price = measure_price(prepared.experiment, prepared.store)
    _print(price, prepared.experiment)
    if prepared.is_phantom:
        say(
            f"priced on the phantom set ({len(prepared.store.case_ids)} small cases): validation, "
            "disk and, without loader.samples_per_epoch, epochs are longer on real ones; give "
            "--data FOLDER"
        )
    return price


def measure_price(experiment: Experiment, store: Store) -> Price:
    """Train a few steps of the first fold and scale them up."""
    split = split_of(store, experiment.split)
    device = choose_device(experiment.compute)
    probe = Probe()
    with tempfile.TemporaryDirectory(prefix="bratsml-price.") as folder:
        work = FoldWork.build(_of_steps(experiment), store, split, 0, Path(folder))
        model = work.model()
        freeze(model, experiment.transfer)
        with contextlib.suppress(Enough):
            train_network(work, model, NullTracker(), [probe])
    cost = StepCost(
        batch_seconds=0.0,  # within the step: the loop waits for its loader
        step_seconds=probe.batch_seconds,
        window_seconds=time_window(model, experiment, usual_shape(store), device),
        memory_bytes=peak_memory(device),
        num_parameters=count_parameters(model),
    )
    one_fold = scale(cost, experiment, store, split, device)
    folds = len(split.folds)
    return Price(
        timed=probe.timed,
        batch_seconds=probe.batch_seconds,
        batches=one_fold.batches,
        one_fold=one_fold,
        num_folds=folds,
        parallel=experiment.launcher.build(count_gpus(experiment.compute)).parallel,
        store_bytes=sum(_folder_bytes(s.path) for s in (store, extra_of(store)) if s is not None),
        disk_bytes=_disk_bytes(experiment, split, one_fold, cost.num_parameters),
        host_bytes=probe.host_bytes + _whole_case_bytes(experiment, store),
    )


class Enough(EndedEarly):
    """As many steps as wanted are timed."""


@dataclass
class Probe(Hook):
    """Times the steps of a training and ends it when there are enough.

    Attributes:
        clock: In seconds.
        timed: Batches timed so far.
        seconds: Of each update, divided by its batches.
        host_bytes: Largest memory of the process and its children.
    """

    steps: int = STEPS
    longest: float = LONGEST_SECONDS
    timed: int = 0
    seconds: list[float] = field(default_factory=list)
    host_bytes: int = 0
    _last: tuple[int, float] | None = None
    _started: float = 0.0

    def __post_init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console
        )

    @property
    def batch_seconds(self) -> float:
        """Median over the updates."""
        return statistics.median(self.seconds)

    def on_fit_start(self, epoch: int, epochs: int, steps: int) -> None:
        """Show the bar."""
        self._started = time.perf_counter()
        self._bar.start()
        self._task = self._bar.add_task("training steps", total=self.steps)

    def on_step(self, step: int, loss: float) -> None:
        """Time an update from the end of the one before.

        Raises:
            Enough: That was the last one.
        """
        now = time.perf_counter()
        if self._last is not None:
            batches = step - self._last[0]
            self.seconds.append((now - self._last[1]) / batches)
            self.timed += batches
            self._bar.update(self._task, completed=self.timed)
        self.host_bytes = max(self.host_bytes, process_bytes())
        too_long = now - self._started > self.longest and self.timed > 0
        if self.timed >= self.steps or too_long:
            raise Enough(f"{self.timed} steps timed")
        self._last = (step, time.perf_counter())

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()


def process_bytes() -> int:
    """Memory of this process and what its children hold beside it."""
    process = psutil.Process()
    total = process.memory_info().rss
    for child in process.children(recursive=True):
        try:
            total += child.memory_full_info().uss
        except psutil.Error:
            continue
    return int(total)


def _of_steps(experiment: Experiment) -> Experiment:
    """The experiment with an epoch just long enough, without the profiler."""
    train = experiment.train
    updates = 2 + -(-STEPS // train.accumulate)
    samples = updates * train.accumulate * experiment.loader.batch_size
    return with_overrides(
        experiment,
        {"loader": {"samples_per_epoch": samples}, "train": {"profile": {"active": 0}}},
    )


def _disk_bytes(
    experiment: Experiment, split: Split, one_fold: Estimate, num_parameters: int
) -> int:
    models = (1 + experiment.train.keep_checkpoints) * num_parameters * BYTES_PER_WEIGHT
    disk = len(split.folds) * (one_fold.disk_bytes + models)
    if experiment.evaluation.keep_probabilities:
        disk += int(sum(map(len, split.folds)) * PROBABILITIES_BYTES)
    return disk


def _whole_case_bytes(experiment: Experiment, store: Store) -> int:
    """Arrays of the largest case while it is predicted, float32."""
    largest = max(
        meta.shape[0] * meta.shape[1] * meta.shape[2] for meta in map(store.meta, store.case_ids)
    )
    regions = len(experiment.output.regions) + 1
    channels = len(experiment.data.modalities) + VOLUMES_AT_ONCE * regions
    return largest * channels * 4


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _print(price: Price, experiment: Experiment) -> None:
    one = price.one_fold
    epoch = price.batches * price.batch_seconds
    at_once = min(price.num_folds, max(price.parallel, 1))
    rows = {
        f"one batch of {experiment.loader.batch_size} (median of {price.timed})": (
            f"{price.batch_seconds:.3g} s"
        ),
        f"one epoch, {price.batches} batches, without validation": duration(epoch),
        f"one fold, {experiment.train.epochs} epochs, validation included": duration(
            one.fold_seconds
        ),
        f"{price.num_folds} folds, {at_once} at a time": duration(price.total_seconds),
        "disk: preprocessed cases": size(price.store_bytes),
        "disk: checkpoints, models and probabilities of all folds": size(price.disk_bytes),
        "host memory of one fold": size(price.host_bytes),
    }
    if one.device != "cpu":
        rows["GPU memory of one fold, as reserved"] = size(one.memory_bytes)
    table = Table(title=f"Price of {experiment.name} on this machine ({one.device})")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
