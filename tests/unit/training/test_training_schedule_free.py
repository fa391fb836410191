"""Which weights a schedule-free training validates, keeps and goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny_training import SignalAt, TinyNet
from torch import nn

from bratsml.training.checkpoint import load_checkpoint
from bratsml.training.loop import Validation
from bratsml.training.optim import OptimConfig
from bratsml.training.schedule import ScheduleConfig

KINDS = ["adamw_schedule_free", "sgd_schedule_free"]
PLAIN = {"schedule": ScheduleConfig(warmup_epochs=1)}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def optim_of(kind: str) -> OptimConfig:
    return OptimConfig(kind=kind, lr=0.05, momentum=0.9, weight_decay=0.01)


def config(**more: Any) -> dict[str, Any]:
    return {"ema_decay": None, **more}


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_validated_is_the_average_of_the_iterates_by_hand(train: Any) -> None:
    # constant gradient g, lr 1, no decay: z_k = w - k g; x averages z_1..z_k with equal weights;
    # y = x + (1 - momentum) (z - x)
    class Slope(nn.Module):
        def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return logits.sum()

    class OneWeight(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.w

    seen, models = [], [OneWeight()]

    def validate(model: nn.Module, epoch: int) -> Validation:
        seen.append(next(model.parameters()).item())
        return Validation(0.0, {}, pd.DataFrame())

    train(
        model=models[0],
        loss=Slope(),
        validate=validate,
        optim=OptimConfig(kind="sgd_schedule_free", lr=1.0, momentum=0.75, weight_decay=0),
        schedule=ScheduleConfig(),
        config=config(epochs=2, accumulate=2),
    )
    # three updates an epoch: x = -(1 + 2 + 3) / 3, then -(1 + ... + 6) / 6
    assert seen == pytest.approx([-2.0, -3.5])
    assert models[0].w.item() == pytest.approx(-3.5 + 0.25 * (-6 + 3.5))


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_keep_what_was_validated_and_what_is_trained(
    train: Any, tmp_path: Path, kind: str
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def validate(model: nn.Module, epoch: int) -> Validation:
        seen.append(weights(model))
        return Validation(float(epoch), {}, pd.DataFrame())

    _, model, _ = train("run", optim=optim_of(kind), validate=validate, config=config(), **PLAIN)
    for name in ("best.pt", "last.pt"):
        state = load_checkpoint(tmp_path / "run" / name)
        assert equal(seen[-1], state["ema"])
        assert equal(weights(model), state["model"])
    assert not equal(state["model"], state["ema"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [(1, 6), (1, 2), (0, 4), (2, 2)])
def test_resumes_bit_for_bit(train: Any, kind: str, stop: tuple[int, int]) -> None:
    changes = {"optim": optim_of(kind), "config": config(), **PLAIN}
    _, whole, first = train("whole", **{**changes, "config": config()})
    _, _, tracker = train("parts", hooks=[SignalAt(*stop)], **{**changes, "config": config()})
    _, model, _ = train("parts", tracker=tracker, **changes)
    assert equal(weights(whole), weights(model))
    score = {k: m["val/dice/mean"] for k, m in first.metrics.items()}
    assert score == {k: m["val/dice/mean"] for k, m in tracker.metrics.items()}


def test_how_often_it_is_validated_changes_nothing(train: Any) -> None:
    often, seldom = (
        train(f"every {n}", optim=optim_of(KINDS[0]), config=config(validate_every=n), **PLAIN)[1]
        for n in (1, 4)
    )
    assert equal(weights(often), weights(seldom))
    torch.manual_seed(0)
    assert not equal(weights(often), weights(TinyNet()))
