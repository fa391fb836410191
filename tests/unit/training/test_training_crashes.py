"""Crashes at awkward moments, and failures that must be said in one sentence."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny_training import NumberedBatch, NumberedLoader, RecordingTracker
from torch import nn

import bratsml.training.checkpoint as checkpoint_module
from bratsml.errors import ConfigError, ResourceError
from bratsml.training.checkpoint import CheckpointFolder, State, load_checkpoint
from bratsml.training.hooks import Hook
from bratsml.training.loop import Validation


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def best_in_epoch_1(model: nn.Module, epoch: int) -> Validation:
    return Validation([0.1, 0.9, 0.3, 0.2][epoch], {}, pd.DataFrame())


@pytest.mark.parametrize("killed_in", ["save_best", "save_last"])
def test_killed_around_the_best_checkpoint_leaves_no_stale_best(
    train: Any, tmp_path: Path, killed_in: str
) -> None:
    class Fragile(CheckpointFolder):
        def save_best(self, state: State) -> None:
            super().save_best(state)
            if killed_in == "save_best" and state["best"]["epoch"] == 1:
                raise Killed

        def save_last(self, state: State) -> None:
            super().save_last(state)
            if killed_in == "save_last" and state["best"]["epoch"] == 1:
                raise Killed

    with pytest.raises(Killed):
        train(checkpoints=Fragile(tmp_path / "run"), validate=best_in_epoch_1)
    result, _, _ = train(validate=best_in_epoch_1)
    assert result.best_epoch == 1
    best = load_checkpoint(tmp_path / "run" / "best.pt")
    assert best["best"] == {"score": 0.9, "epoch": 1}


def test_killed_between_checkpoint_and_log_still_logs_the_epoch_once(train: Any) -> None:
    class KilledOnce(RecordingTracker):
        def log_metrics(self, metrics: Any, step: int) -> None:
            if step == 2 and self.last_step == -1:
                self.last_step = 1  # what the store would say to the next process
                raise Killed
            assert step not in self.metrics
            super().log_metrics(metrics, step)

    tracker = KilledOnce()
    with pytest.raises(Killed):
        train(tracker=tracker)
    train(tracker=tracker)
    assert sorted(tracker.metrics) == [0, 1, 2, 3]
    assert math.isfinite(tracker.metrics[2]["train/loss"])


def test_a_crash_while_saving_after_a_damaged_last_keeps_the_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path)
    for number in (1, 2):
        folder.save_last({"config": {}, "number": number})
    content = bytearray(folder.last_path.read_bytes())
    content[len(content) // 2] ^= 1
    folder.last_path.write_bytes(content)

    def crash(*arguments: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "write_bytes", crash)
        with pytest.raises(Killed):
            folder.save_last({"config": {}, "number": 3})
    with pytest.warns(UserWarning, match=r"previous\.pt"):
        assert folder.load_last()["number"] == 1


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_logged_loss_is_the_mean_over_patches_of_uneven_batches(
    train: Any, accumulate: int
) -> None:
    class ThreeThenOne(NumberedLoader):
        def __len__(self) -> int:
            return 2

        def epoch(self, epoch: int, start: int = 0) -> Any:
            for num in (3, 1)[start:]:
                image = torch.rand((num, 1, 4, 4, 4))
                yield NumberedBatch(image, (image > 0.5).to(torch.uint8))

    class BySize(nn.Module):
        def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return logits.mean() * 0 + (1.0 if len(logits) == 3 else 5.0)

    _, _, tracker = train(
        loader=ThreeThenOne(), loss=BySize(), config={"epochs": 1, "accumulate": accumulate}
    )
    assert tracker.metrics[0]["train/loss"] == pytest.approx((3 * 1.0 + 1 * 5.0) / 4)


def test_every_hook_is_closed_in_order_although_one_fails(train: Any) -> None:
    heard: list[str] = []

    class Named(Hook):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_step(self, step: int, loss: float) -> None:
            if self.name == "first":
                raise ValueError("broken")

        def on_error(self, error: BaseException) -> None:
            heard.append(f"{self.name} heard {error}")

        def close(self) -> None:
            heard.append(f"{self.name} closed")
            raise RuntimeError(self.name)

    with pytest.raises(RuntimeError):
        train(hooks=[Named("first"), Named("second")])
    assert heard == [
        "first heard broken",
        "first closed",
        "second heard broken",
        "second closed",
    ]


@pytest.mark.parametrize("where", ["loss", "set-up"])
def test_gpu_memory_running_out_names_the_settings_to_lower(
    train: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Full(nn.Module):
        def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        def to(self, *arguments: Any, **options: Any) -> Any:
            if where == "set-up":
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return self

    with pytest.raises(ResourceError, match=r"loader\.patch or loader\.batch_size"):
        train(loss=Full())


def test_a_compiler_that_gives_up_is_a_setting_to_change(train: Any) -> None:
    class Uncompilable(nn.Module):
        def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            raise torch._dynamo.exc.Unsupported("no")

    with pytest.raises(ConfigError, match=r"compute\.compile=false"):
        train(loss=Uncompilable())


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(
    train: Any, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    steps: list[int] = []

    class Count(Hook):
        def on_step(self, step: int, loss: float) -> None:
            steps.append(step)

    with pytest.raises((ResourceError, OSError)):
        train("file/run", hooks=[Count()])
    assert steps == []


def test_short_epochs_with_accumulation_still_leave_a_traced_step(train: Any) -> None:
    class KeepsTrace(RecordingTracker):
        trace = ""

        def log_file(self, path: Path, folder: str = "") -> None:
            super().log_file(path, folder)
            self.trace = gzip.decompress(path.read_bytes()).decode()

    # two optimizer steps per epoch: one to warm up, one that is kept
    tracker = KeepsTrace()
    train(config={"epochs": 2, "accumulate": 3, "profile": {}}, tracker=tracker)
    assert tracker.files == ["profiler/trace.json.gz", "profiler/table.html"]
    assert "aten::conv3d" in tracker.trace


def test_a_resumed_run_is_not_profiled_again(train: Any) -> None:
    class Stop(Hook):
        def on_step(self, step: int, loss: float) -> None:
            raise Killed

    with pytest.raises(Killed):
        train(hooks=[Stop()])
    _, _, tracker = train(config={"profile": {"wait": 0, "warmup": 1, "active": 1}})
    assert tracker.files == []
