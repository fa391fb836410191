from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny_training import NumberedLoader, RecordingTracker, SignalAt, TinyNet
from torch import nn

from bratsml.errors import CheckpointError
from bratsml.losses.weighted_sum import Weight, WeightedSum
from bratsml.training.checkpoint import CheckpointFolder
from bratsml.training.hooks import Hook
from bratsml.training.loop import Diverged, Validation
from bratsml.training.optim import OptimConfig
from bratsml.training.schedule import ScheduleConfig

TIMES = {"epoch_seconds", "cases_per_second", "peak_memory_mb"}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal_runs(one: nn.Module, other: nn.Module, first: dict, second: dict) -> None:
    for name, value in weights(one).items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert first.keys() == second.keys()
    for step in first:
        a = {k: v for k, v in first[step].items() if k not in TIMES}
        b = {k: v for k, v in second[step].items() if k not in TIMES}
        assert a == b, step


@pytest.mark.parametrize("stop", [(1, 6), (1, 2), (0, 4), (2, 2)])
def test_interrupted_equals_uninterrupted_bit_for_bit(train: Any, stop: tuple[int, int]) -> None:
    _, whole, whole_tracker = train("whole")
    first, _, tracker = train("parts", hooks=[SignalAt(*stop)])
    assert first.stopped_by == "signal"
    second, model, _ = train("parts", tracker=tracker)
    assert second.stopped_by == "epochs"
    assert_equal_runs(whole, model, whole_tracker.metrics, tracker.metrics)


def test_killed_between_checkpoints_equals_uninterrupted(train: Any) -> None:
    class Killed(BaseException):
        pass

    class KillAt(Hook):
        def __init__(self) -> None:
            self.count = 0

        def on_step(self, step: int, loss: float) -> None:
            self.count += 1
            if self.count == 5:  # in the middle of the second epoch
                raise Killed

    _, whole, whole_tracker = train("whole")
    tracker = RecordingTracker()
    with pytest.raises(Killed):
        train("parts", hooks=[KillAt()], tracker=tracker)
    _, model, _ = train("parts", tracker=tracker)
    assert_equal_runs(whole, model, whole_tracker.metrics, tracker.metrics)


def test_accumulation_logs_the_mean_loss_and_learns_as_a_larger_batch(train: Any) -> None:
    class Constant(nn.Module):
        def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return logits.mean() * 0 + 0.75

    _, _, tracker = train(loss=Constant(), config={"epochs": 1, "accumulate": 4})
    assert tracker.metrics[0]["train/loss"] == pytest.approx(0.75)


def test_one_call_per_epoch_and_nothing_already_logged_again(train: Any) -> None:
    tracker = RecordingTracker()
    tracker.last_step = 1
    train(tracker=tracker)
    assert tracker.calls == 2
    assert set(tracker.metrics) == {2, 3}
    wanted = {"train/loss", "lr", "epoch_seconds", "cases_per_second", "peak_memory_mb"}
    assert wanted | {"val/dice/mean"} <= set(tracker.metrics[3])


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(train: Any) -> None:
    poison = NumberedLoader(lambda epoch, index: (epoch, index) == (1, 2))
    _, model, tracker = train(loader=poison)
    assert tracker.metrics[1]["train/skipped_steps"] == 1
    assert all(torch.isfinite(value).all() for value in weights(model).values())
    assert math.isfinite(tracker.metrics[1]["train/loss"])


def test_many_such_steps_go_back_to_the_last_checkpoint_with_other_data(train: Any) -> None:
    poison = NumberedLoader(lambda epoch, index: epoch == 2)
    result, _, tracker = train(loader=poison, config={"nan_steps_allowed": 2})
    assert result.stopped_by == "epochs"
    assert tracker.tags == {"bratsml.rollbacks": "1"}
    assert tracker.metrics[2]["train/skipped_steps"] == 2


def test_divergence_that_stays_ends_in_one_sentence(train: Any) -> None:
    poison = NumberedLoader(lambda epoch, index: epoch % 1_000_003 == 2)
    with pytest.raises(Diverged, match=r"lower optim\.lr"):
        train(loader=poison, config={"nan_steps_allowed": 2})


def test_patience_counts_epochs_since_the_best(train: Any) -> None:
    def falling(model: nn.Module, epoch: int) -> Validation:
        return Validation(-float(epoch), {}, pd.DataFrame())

    result, _, _ = train(validate=falling, config={"epochs": 50, "patience": 3})
    assert (result.stopped_by, result.best_epoch, result.epochs_done) == ("patience", 0, 4)


def test_time_limit_ends_training_with_a_validation(train: Any) -> None:
    config = {"epochs": 50, "validate_every": 50, "time_limit_hours": 1e-9}
    result, _, _ = train(config=config)
    assert (result.stopped_by, result.epochs_done, result.best_epoch) == ("time", 1, 0)


def test_validation_is_due_every_nth_and_in_the_last_epoch(train: Any) -> None:
    _, _, tracker = train(config={"epochs": 5, "validate_every": 2})
    assert [s for s, m in tracker.metrics.items() if "val/dice/mean" in m] == [1, 3, 4]


def test_best_checkpoint_is_of_the_best_epoch(train: Any, tmp_path: Path) -> None:
    scores = [0.1, 0.9, 0.3, float("nan")]

    def validate(model: nn.Module, epoch: int) -> Validation:
        return Validation(scores[epoch], {}, pd.DataFrame())

    result, _, _ = train(validate=validate)
    assert (result.best_score, result.best_epoch) == (0.9, 1)
    from bratsml.training.checkpoint import load_checkpoint

    best = load_checkpoint(CheckpointFolder(tmp_path / "run").best_path)
    assert best["best"] == {"score": 0.9, "epoch": 1}
    assert best["position"]["epoch"] == 2


def test_another_configuration_is_not_resumed_and_the_difference_is_named(train: Any) -> None:
    train(config={"epochs": 1})
    with pytest.raises(CheckpointError, match=r"optim\.lr: 0\.01 -> 0\.5"):
        train(config_tree={"optim": {"lr": 0.5}})


def test_validation_sees_the_averaged_weights_and_training_gets_its_own_back(train: Any) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def validate(model: nn.Module, epoch: int) -> Validation:
        seen.append(weights(model))
        return Validation(0.0, {}, pd.DataFrame())

    _, model, _ = train(validate=validate, config={"epochs": 1, "accumulate": 6})
    torch.manual_seed(0)
    initial = weights(TinyNet())
    # one update: average = 0.9 * initial + 0.1 * final
    for name, final in weights(model).items():
        expected = 0.9 * initial[name] + 0.1 * final
        assert torch.allclose(seen[0][name], expected, atol=1e-7), name


def test_profiler_leaves_trace_and_table_once(train: Any) -> None:
    profile = {"wait": 0, "warmup": 1, "active": 1}
    _, _, tracker = train(config={"epochs": 2, "profile": profile})
    assert tracker.files == ["profiler/trace.json.gz", "profiler/table.html"]


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_every_optimizer_resumes(train: Any, kind: str) -> None:
    optim = OptimConfig(kind=kind, lr=0.01)
    _, whole, _ = train("whole", optim=optim)
    train("parts", optim=optim, hooks=[SignalAt(1, 2)])
    _, model, _ = train("parts", optim=optim)
    for name, value in weights(whole).items():
        assert torch.equal(value, model.state_dict()[name])


def test_plateau_state_survives_a_resume(train: Any) -> None:
    def falling(model: nn.Module, epoch: int) -> Validation:
        return Validation(-float(epoch), {}, pd.DataFrame())

    changes = {
        "schedule": ScheduleConfig(kind="plateau", patience=1),
        "validate": falling,
        "config": {"epochs": 8},
    }
    _, _, whole = train("whole", **changes)
    tracker = RecordingTracker()
    train("parts", hooks=[SignalAt(3, 2)], tracker=tracker, **{**changes, "config": {"epochs": 8}})
    train("parts", tracker=tracker, **{**changes, "config": {"epochs": 8}})
    lrs = [m["lr"] for m in whole.metrics.values()]
    assert lrs == [m["lr"] for m in tracker.metrics.values()]
    assert lrs[-1] < lrs[0]


def test_ramps_of_the_loss_go_on_where_training_goes_on(train: Any) -> None:
    class Recording(WeightedSum):
        def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            epochs.append(self.epoch)
            return super().forward(logits, target)

    def ramped() -> nn.Module:
        return Recording([(Weight(last=1.0, first=0.1, length=3.0), nn.BCEWithLogitsLoss())])

    epochs: list[float] = []
    _, whole, _ = train("whole", loss=ramped())
    assert epochs[::2] == pytest.approx([n / 3 for n in range(12)])  # two batches a step
    expected = epochs.copy()
    epochs.clear()
    train("parts", loss=ramped(), hooks=[SignalAt(1, 2)])
    _, model, _ = train("parts", loss=ramped())
    assert epochs == expected
    for name, value in weights(whole).items():
        assert torch.equal(value, model.state_dict()[name])
