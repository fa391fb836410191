"""A training small enough to be repeated many times: a tiny network on numbered batches."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from bratsml.compute.device import ComputeConfig
from bratsml.tracking.tracker import NullTracker
from bratsml.training.checkpoint import CheckpointFolder
from bratsml.training.hooks import Hook
from bratsml.training.loop import FitResult, Validation, fit
from bratsml.training.optim import OptimConfig
from bratsml.training.schedule import ScheduleConfig
from bratsml.training.settings import TrainConfig


@dataclass
class NumberedBatch:
    image: Tensor
    label: Tensor

    def to(self, device: torch.device) -> NumberedBatch:
        return NumberedBatch(self.image.to(device), self.label.to(device))


class NumberedLoader:
    """Batch i of epoch e depends on (e, i) alone; ``poison`` batches are NaN."""

    def __init__(self, poison: Callable[[int, int], bool] = lambda epoch, index: False) -> None:
        self.poison = poison

    def __len__(self) -> int:
        return 6

    def epoch(self, epoch: int, start: int = 0) -> Iterator[NumberedBatch]:
        for index in range(start, len(self)):
            rng = torch.Generator().manual_seed(1000 * epoch + index)
            image = torch.rand((1, 1, 4, 4, 4), generator=rng)
            label = (image > 0.5).to(torch.uint8)
            if self.poison(epoch, index):
                image = image * float("nan")
            yield NumberedBatch(image, label)


class TinyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1), nn.Dropout(0.3), nn.PReLU(), nn.Conv3d(4, 1, 1)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.body(image)


class RecordingTracker(NullTracker):
    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[int, dict[str, float]] = {}
        self.calls = 0
        self.tags: dict[str, str] = {}
        self.files: list[str] = []

    def log_metrics(self, metrics: Any, step: int) -> None:
        self.calls += 1
        self.metrics[step] = dict(metrics)

    def set_tags(self, tags: Any) -> None:
        self.tags |= tags

    def log_file(self, path: Path, folder: str = "") -> None:
        assert path.stat().st_size > 0
        self.files.append(f"{folder}/{path.name}")

    def log_text(self, text: str, name: str) -> None:
        self.files.append(name)


class SignalAt(Hook):
    """Asks this process to stop at one step of one epoch."""

    def __init__(self, epoch: int, step: int) -> None:
        self.when, self.epoch = (epoch, step), 0

    def on_fit_start(self, epoch: int, epochs: int, steps: int) -> None:
        self.epoch = epoch

    def on_step(self, step: int, loss: float) -> None:
        if (self.epoch, step) == self.when:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_epoch_end(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        self.epoch = epoch + 1


def score_of(model: nn.Module, epoch: int) -> Validation:
    """Deterministic in the weights."""
    with torch.no_grad():
        score = float(sum(p.abs().mean() for p in model.parameters()))
    return Validation(score, {"val/dice/mean": score}, pd.DataFrame())


@pytest.fixture
def train(tmp_path: Path):
    """Call with a folder name and what should differ; returns result, network and tracker."""

    def run(folder: str = "run", **changes: Any) -> tuple[FitResult, nn.Module, RecordingTracker]:
        torch.manual_seed(0)
        model, tracker = TinyNet(), changes.pop("tracker", RecordingTracker())
        settings = {
            "epochs": 4,
            "accumulate": 2,
            "ema_decay": 0.9,
            "profile": {"active": 0},
            **changes.pop("config", {}),
        }
        arguments: dict[str, Any] = {
            "model": model,
            "loss": nn.BCEWithLogitsLoss(),
            "target_of": lambda label: label.float(),
            "loader": NumberedLoader(),
            "validate": score_of,
            "optim": OptimConfig(lr=0.01),
            "schedule": ScheduleConfig(kind="cosine", warmup_epochs=1),
            "config": TrainConfig(**settings),
            "compute": ComputeConfig(device="cpu"),
            "checkpoints": CheckpointFolder(tmp_path / folder),
            "tracker": tracker,
            "config_tree": {"optim": {"lr": 0.01}},
            **changes,
        }
        return fit(**arguments), model, tracker

    return run
