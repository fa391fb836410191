from __future__ import annotations

import pytest
import torch

from bratsml.training.schedule import ScheduleConfig


def test_cosine_after_warmup_by_hand() -> None:
    schedule = ScheduleConfig(kind="cosine", warmup_epochs=1).build(steps_per_epoch=3, epochs=3)
    # three rising steps of 1/4, then half a cosine over six steps
    assert [schedule.factor(s) for s in (0, 1, 2)] == pytest.approx([0.25, 0.5, 0.75])
    assert [schedule.factor(s) for s in (3, 6, 9)] == pytest.approx([1.0, 0.5, 0.0])


def test_polynomial_and_floor_by_hand() -> None:
    schedule = ScheduleConfig(kind="polynomial", power=2.0, floor=0.1).build(10, 1)
    assert [schedule.factor(s) for s in (0, 5, 9)] == pytest.approx([1.0, 0.25, 0.1])


def test_plateau_lowers_after_patience_runs_out() -> None:
    schedule = ScheduleConfig(kind="plateau", patience=1, factor=0.5).build(10, 10)
    factors = []
    for score in (0.5, 0.6, 0.6, 0.6, 0.7, 0.1, 0.1):
        schedule.validated(score)
        factors.append(schedule.factor(0))
    assert factors == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]


def test_constant_stays() -> None:
    schedule = ScheduleConfig().build(10, 10)
    assert {schedule.factor(s) for s in range(200)} == {1.0}


def test_warm_restarts_by_hand() -> None:
    config = ScheduleConfig(kind="warm_restarts", warmup_epochs=0.5, restart_epochs=1, floor=0.2)
    schedule = config.build(steps_per_epoch=4, epochs=10)
    assert schedule.factor(0) == pytest.approx(1 / 3)
    # cycles of 4, 8 and 16 steps after two steps of warm-up
    assert [schedule.factor(s) for s in (2, 6, 14)] == pytest.approx([1.0] * 3)
    assert [schedule.factor(s) for s in (4, 10, 22)] == pytest.approx([0.6] * 3)
    assert schedule.factor(13) < schedule.factor(12) < 0.6


def test_warm_restarts_agree_with_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    peer = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=6, T_mult=2)
    schedule = ScheduleConfig(kind="warm_restarts", restart_epochs=2).build(3, 20)
    for step in range(60):
        assert schedule.factor(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        peer.step()
