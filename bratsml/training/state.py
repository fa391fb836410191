"""What a training consists of, and how it becomes a checkpoint and comes back."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import psutil
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from bratsml.compute.device import ComputeConfig, make_fabric
from bratsml.config import Tree
from bratsml.losses.weighted_sum import set_epoch
from bratsml.training.checkpoint import CheckpointFolder, State, require_same_config
from bratsml.training.ema import WeightAverage
from bratsml.training.optim import OptimConfig, lr_of, set_lr
from bratsml.training.schedule import Schedule, ScheduleConfig
from bratsml.training.schedule_free import ScheduleFreeAverage
from bratsml.training.settings import TrainConfig
from bratsml.training.step import StepResult, TrainStep

DATA_EPOCHS_PER_ROLLBACK = 1_000_003
"""Added to the loader's epoch after going back, so that the data comes in another order."""


@dataclass
class Position:
    """Where a training is, and the sums of the epoch in progress.

    Attributes:
        epoch: Epochs done.
        step: Batches done of the epoch in progress.
        updates: Optimizer steps tried, over all epochs.
        loss_sum, loss_count: Over the patches of this epoch whose loss was finite.
        patches: Patches seen in this epoch.
        seconds: Spent on this epoch's steps.
        total_seconds: Spent on epochs already done, validation included.
        skipped: Steps of this epoch without an update because loss or gradient were not finite.
        bad_in_a_row: Such steps in a row, apart from overflows that the fp16 scaler mends.
        rollbacks: Times that training went back to a checkpoint.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    patches: int = 0
    seconds: float = 0.0
    total_seconds: float = 0.0
    skipped: int = 0
    bad_in_a_row: int = 0
    rollbacks: int = 0

    def hear(self, result: StepResult, num_batches: int) -> None:
        """Count one optimizer step."""
        self.step += num_batches
        self.updates += 1
        self.patches += result.num_patches
        if result.outcome != "updated":
            self.skipped += 1
        if result.outcome == "not finite":
            self.bad_in_a_row += 1
            return
        if result.outcome == "updated":
            self.bad_in_a_row = 0
        self.loss_sum += result.loss * result.num_patches
        self.loss_count += result.num_patches


@dataclass(frozen=True)
class KeptEpoch:
    """An epoch whose weights are kept beside best and last."""

    epoch: int
    score: float


@dataclass
class Training:
    """Network, optimizer, schedule and position: all that a checkpoint keeps.

    Attributes:
        history: Metrics of every epoch done, in order; lets a resumed run log what a crash between
            checkpoint and log left out.
        kept: The best-scoring epochs whose weights are kept, the best first.
    """

    fabric: Fabric
    model: Any
    optimizer: Any
    schedule: Schedule
    base_lr: float
    step: TrainStep
    average: WeightAverage | ScheduleFreeAverage | None
    config_tree: Tree
    position: Position = field(default_factory=Position)
    best_score: float = -math.inf
    best_epoch: int = -1
    history: list[dict[str, float]] = field(default_factory=list)
    kept: list[KeptEpoch] = field(default_factory=list)
    epoch_started: float = field(default_factory=time.perf_counter)

    @classmethod
    def set_up(
        cls,
        compute: ComputeConfig,
        model: nn.Module,
        loss: nn.Module,
        target_of: Callable[[Tensor], Tensor],
        optim: OptimConfig,
        schedule: ScheduleConfig,
        settings: TrainConfig,
        num_batches: int,
        config_tree: Tree,
        fabric: Fabric | None = None,
    ) -> Training:
        """Bring the parts onto the device and together.

        Args:
            fabric: Instead of the one that ``compute`` describes.
        """
        fabric = fabric or make_fabric(compute)
        if compute.channels_last:
            model = model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if compute.compile:
            model.compile(dynamic=False)
        model = model.to(fabric.device)
        wrapped, optimizer = fabric.setup(model, optim.build(model))
        moving = WeightAverage(model, settings.ema_decay) if settings.ema_decay else None
        step = TrainStep(
            fabric,
            wrapped,
            optimizer,
            loss.to(fabric.device),
            target_of,
            settings.clip_norm,
            compute.channels_last,
            moving,
        )
        average = ScheduleFreeAverage(optimizer.optimizer) if optim.schedule_free else moving
        steps = math.ceil(num_batches / settings.accumulate)
        return cls(
            fabric,
            wrapped,
            optimizer,
            schedule.build(steps, settings.epochs),
            optim.lr,
            step,
            average,
            config_tree,
        )

    def set_lr(self) -> float:
        """Give the optimizer its learning rate, and ramps in the loss their epoch, for a step."""
        lr = self.base_lr * self.schedule.factor(self.position.updates)
        set_lr(self.optimizer, lr)
        set_epoch(self.step.loss, self.position.updates / self.schedule.steps_per_epoch)
        return lr

    @property
    def data_epoch(self) -> int:
        """The loader's epoch: another one after going back."""
        return self.position.epoch + DATA_EPOCHS_PER_ROLLBACK * self.position.rollbacks

    @contextmanager
    def weights_to_keep(self) -> Iterator[None]:
        """Let the network carry the averaged weights, when there are any."""
        if self.average is None:
            yield
        else:
            with self.average.applied(self.model):
                yield

    def hear_score(self, score: float) -> bool:
        """Take note of a validation; True when it is the best so far (NaN never is)."""
        self.schedule.validated(score)
        if not score > self.best_score:
            return False
        self.best_score, self.best_epoch = float(score), self.position.epoch
        return True

    def keep_if_good(self, score: float, num: int) -> bool:
        """Take note that this epoch is among the ``num`` best so far; of equals the earlier is.

        NaN never is.
        """
        if math.isnan(score):
            return False
        epoch = self.position.epoch
        others = [kept for kept in self.kept if kept.epoch != epoch]
        together = [*others, KeptEpoch(epoch, float(score))]
        self.kept = sorted(together, key=lambda kept: (-kept.score, kept.epoch))[:num]
        return any(kept.epoch == epoch for kept in self.kept)

    def epoch_metrics(self) -> dict[str, float]:
        """Metrics of the epoch that has just been trained; NaN loss when no step was finite."""
        position = self.position
        loss = position.loss_sum / position.loss_count if position.loss_count else math.nan
        return {
            "train/loss": loss,
            "train/skipped_steps": float(position.skipped),
            "lr": lr_of(self.optimizer),
            "epoch_seconds": position.seconds,
            "cases_per_second": position.patches / max(position.seconds, 1e-9),
        }

    def close_epoch(self, metrics: dict[str, float]) -> None:
        """Move the position to the start of the next epoch."""
        self.history.append({name: float(value) for name, value in metrics.items()})
        old = self.position
        self.position = Position(
            epoch=old.epoch + 1,
            updates=old.updates,
            total_seconds=old.total_seconds + self._since_epoch_start(),
            rollbacks=old.rollbacks,
        )
        self.epoch_started = time.perf_counter()

    def out_of_time(self, limit_hours: float | None) -> bool:
        """Whether the limit has passed, over all sessions of this training."""
        if limit_hours is None:
            return False
        return self.position.total_seconds + self._since_epoch_start() > limit_hours * 3600

    def _since_epoch_start(self) -> float:
        # an epoch resumed in its middle brings the seconds of its first part along
        return max(time.perf_counter() - self.epoch_started, self.position.seconds)

    def state(self) -> State:
        """The checkpoint: tensors, numbers and text only."""
        scaler = self.step.scaler
        return {
            "config": self.config_tree,
            "model": self.model.state_dict(),
            "ema": None if self.average is None else self.average.state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "rng": rng_state(),
            "position": asdict(self.position),
            "best": {"score": self.best_score, "epoch": self.best_epoch},
            "history": self.history,
            "kept": [asdict(kept) for kept in self.kept],
        }

    def state_to_keep(self, kept: KeptEpoch) -> State:
        """The weights that validation scored, and how well; nothing to go on training with."""
        state = self.state()
        return {
            "config": self.config_tree,
            "model": state["ema"] or state["model"],
            "ema": None,
            "position": state["position"],
            "best": {"score": kept.score, "epoch": kept.epoch},
        }

    def resume(self, checkpoints: CheckpointFolder) -> bool:
        """Go on from the folder's last checkpoint; False when there is none.

        Raises:
            CheckpointError: It belongs to another configuration, or every one is damaged.
        """
        state = checkpoints.load_last()
        if state is None:
            return False
        require_same_config(state, self.config_tree, checkpoints.last_path.name)
        self.model.load_state_dict(state["model"])  # what gradients are taken at
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.average is not None:
            self.average.load_state(state["ema"])
        scaler = self.step.scaler
        if scaler is not None:
            scaler.load_state_dict(state["scaler"])
        self.position = Position(**state["position"])
        self.best_score, self.best_epoch = state["best"]["score"], state["best"]["epoch"]
        self.history = state["history"]
        # an older checkpoint may name files that a later one let go
        self.kept = [
            KeptEpoch(**kept)
            for kept in state.get("kept", [])
            if checkpoints.kept_path(kept["epoch"]).is_file()
        ]
        self.epoch_started = time.perf_counter()
        restore_rng(state["rng"])
        return True


def rng_state() -> dict[str, Any]:
    """Python's, NumPy's and torch's generators, as plain data."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (kind, [int(k) for k in keys], position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Undo :func:`rng_state`; GPU generators only where their number is the same."""
    random.setstate(state["python"])
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def peak_memory_mb(device: torch.device) -> float:
    """Peak of GPU memory held by tensors, or on a CPU what the process holds now, in MB (1e6)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return float(psutil.Process().memory_info().rss / 1e6)
