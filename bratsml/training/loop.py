"""The training loop.

``fit`` sets up, resumes and handles failure; ``_train_epoch`` is the loop;
:class:`~bratsml.training.state.Training` holds what a checkpoint keeps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from bratsml.compute.device import ComputeConfig
from bratsml.config import Tree
from bratsml.errors import BratsmlError, ConfigError, ResourceError
from bratsml.tracking.tracker import Tracker
from bratsml.training.checkpoint import CheckpointFolder
from bratsml.training.hooks import Hook, Hooks
from bratsml.training.optim import OptimConfig
from bratsml.training.profile import ProfilerHook
from bratsml.training.schedule import ScheduleConfig
from bratsml.training.settings import TrainConfig
from bratsml.training.signals import StopRequest, listening
from bratsml.training.state import Training, peak_memory_mb

StoppedBy = Literal["epochs", "patience", "time", "signal"]
MAX_ROLLBACKS = 2


@dataclass(frozen=True)
class Validation:
    """What a validation found: the score that chooses the best epoch, and what is logged."""

    score: float
    metrics: dict[str, float]
    table: pd.DataFrame


@dataclass(frozen=True)
class FitResult:
    """How a training ended; ``best_epoch`` counts from 0 and is -1 before any validation."""

    epochs_done: int
    best_score: float
    best_epoch: int
    stopped_by: StoppedBy


class Loader(Protocol):
    """What the loop needs of a loader: the same batches for the same epoch, from any start."""

    def __len__(self) -> int:
        """Batches per epoch."""
        ...

    def epoch(self, epoch: int, start: int = 0) -> Iterable[Any]:
        """Batches (``image``, ``label``) of an epoch, leaving out the first ``start``."""
        ...


class Diverged(BratsmlError):
    """Loss or gradient stayed infinite or NaN."""


def fit(
    *,
    model: nn.Module,
    loss: nn.Module,
    target_of: Callable[[Tensor], Tensor],
    loader: Loader,
    validate: Callable[[nn.Module, int], Validation],
    optim: OptimConfig,
    schedule: ScheduleConfig,
    config: TrainConfig,
    compute: ComputeConfig,
    checkpoints: CheckpointFolder,
    tracker: Tracker,
    config_tree: Tree,
    hooks: Sequence[Hook] = (),
) -> FitResult:
    """Train until the epochs, the patience or the time are used up, or somebody asks to stop.

    Goes on from the last checkpoint of the folder when there is one: on a CPU the result is bit for
    bit that of a training never interrupted.

    Args:
        validate: Scores the network; called with the weights that would be kept.
        config_tree: Must equal that of a checkpoint to be resumed; plain data.

    Raises:
        CheckpointError: The checkpoint belongs to another configuration, or all are damaged.
        ResourceError: Out of GPU memory or disk; names what to change.
        Diverged: The loss is still not finite after going back twice.
    """
    with listening() as request, _errors_in_plain_words():
        training = Training.set_up(
            compute, model, loss, target_of, optim, schedule, config, len(loader), config_tree
        )
        all_hooks = Hooks(hooks)
        if training.resume(checkpoints):
            _log_missing(training, tracker)
        else:
            checkpoints.save_last(training.state())
            all_hooks = Hooks([ProfilerHook(config.profile, tracker, config.accumulate), *hooks])
        with all_hooks:
            all_hooks.on_fit_start(training.position.epoch, config.epochs, len(loader))
            return _fit_epochs(
                training, loader, validate, config, checkpoints, tracker, all_hooks, request
            )


def _fit_epochs(
    training: Training,
    loader: Loader,
    validate: Callable[[nn.Module, int], Validation],
    config: TrainConfig,
    checkpoints: CheckpointFolder,
    tracker: Tracker,
    hooks: Hooks,
    request: StopRequest,
) -> FitResult:
    ended: StoppedBy | None = _why_end(training, config)
    while ended is None:
        outcome = _train_epoch(training, loader, config, checkpoints, tracker, hooks, request)
        if outcome == "stopped":
            checkpoints.save_last(training.state())
            return _result(training, "signal")
        if outcome == "went back":
            continue
        epoch = training.position.epoch
        metrics = training.epoch_metrics()
        out_of_time = training.out_of_time(config.time_limit_hours)
        is_last = epoch + 1 == config.epochs or out_of_time
        is_best = is_kept = False
        if is_last or (epoch + 1) % config.validate_every == 0:
            with training.weights_to_keep():
                validation = validate(training.model, epoch)
            metrics |= validation.metrics
            is_best = training.hear_score(validation.score)
            is_kept = training.keep_if_good(validation.score, config.keep_checkpoints)
        metrics["peak_memory_mb"] = peak_memory_mb(training.fabric.device)
        training.close_epoch(metrics)
        if is_best:
            checkpoints.save_best(training.state())
        if is_kept:
            kept = next(kept for kept in training.kept if kept.epoch == epoch)
            checkpoints.save_kept(epoch, training.state_to_keep(kept))
        checkpoints.save_last(training.state())
        checkpoints.drop_kept(kept.epoch for kept in training.kept)
        hooks.on_checkpoint(epoch, is_best)
        if epoch > tracker.last_step:
            tracker.log_metrics(metrics, step=epoch)
        hooks.on_epoch_end(epoch, config.epochs, metrics)
        ended = _why_end(training, config)
        if ended is None and request.asked:
            ended = "signal"
    return _result(training, ended)


def _train_epoch(
    training: Training,
    loader: Loader,
    config: TrainConfig,
    checkpoints: CheckpointFolder,
    tracker: Tracker,
    hooks: Hooks,
    request: StopRequest,
) -> Literal["finished", "stopped", "went back"]:
    """One epoch, or what is left of it."""
    position = training.position
    training.model.train()
    start = time.perf_counter()
    seconds_before = position.seconds
    batches = iter(loader.epoch(training.data_epoch, position.step))
    for group in _groups(batches, config.accumulate):
        training.set_lr()
        result = training.step(group)
        position.hear(result, len(group))
        position.seconds = seconds_before + time.perf_counter() - start
        if position.bad_in_a_row >= config.nan_steps_allowed:
            _go_back(training, checkpoints, tracker, config)
            return "went back"
        hooks.on_step(position.step, result.loss)
        if request.asked:
            return "stopped"
    return "finished"


def _go_back(
    training: Training, checkpoints: CheckpointFolder, tracker: Tracker, config: TrainConfig
) -> None:
    """Return to the last checkpoint with another order of the data."""
    rollbacks = training.position.rollbacks + 1
    if rollbacks > MAX_ROLLBACKS:
        raise Diverged(
            f"loss or gradient were not finite for {config.nan_steps_allowed} steps in a row, "
            f"again after going back {MAX_ROLLBACKS} times; lower optim.lr or set "
            "compute.precision=32"
        )
    skipped = training.position.skipped
    training.resume(checkpoints)
    training.position.rollbacks = rollbacks
    training.position.skipped += skipped
    tracker.set_tags({"bratsml.rollbacks": str(rollbacks)})


def _log_missing(training: Training, tracker: Tracker) -> None:
    """Log epochs that a crash left out between their checkpoint and their log."""
    for epoch, metrics in enumerate(training.history):
        if epoch > tracker.last_step:
            tracker.log_metrics(metrics, step=epoch)


@contextmanager
def _errors_in_plain_words() -> Iterator[None]:
    """Say what to change when memory runs out or the compiler gives up."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise ResourceError(
            "the GPU's memory ran out; lower loader.patch or loader.batch_size, or set "
            "model.checkpointing=true and compute.precision=bf16"
        ) from error
    except torch._dynamo.exc.TorchDynamoException as error:
        raise ConfigError(
            "compute.compile=true does not work for this network on this machine "
            f"({type(error).__name__}); set compute.compile=false"
        ) from error


def _groups(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Batches in lists of ``size``; the last may be shorter."""
    while group := list(islice(batches, size)):
        yield group


def _why_end(training: Training, config: TrainConfig) -> StoppedBy | None:
    position = training.position
    if position.epoch >= config.epochs:
        return "epochs"
    since_best = position.epoch - 1 - training.best_epoch
    if config.patience is not None and training.best_epoch >= 0 and since_best >= config.patience:
        return "patience"
    out_of_time = position.epoch > 0 and training.out_of_time(config.time_limit_hours)
    return "time" if out_of_time else None


def _result(training: Training, stopped_by: StoppedBy) -> FitResult:
    return FitResult(
        epochs_done=training.position.epoch,
        best_score=training.best_score,
        best_epoch=training.best_epoch,
        stopped_by=stopped_by,
    )
