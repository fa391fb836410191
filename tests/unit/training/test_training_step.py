from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from tiny_training import NumberedBatch, TinyNet
from torch import nn

from bratsml.training.ema import WeightAverage
from bratsml.training.optim import OptimConfig
from bratsml.training.state import Position
from bratsml.training.step import StepResult, TrainStep


def batch(num: int = 2) -> NumberedBatch:
    image = torch.rand((num, 1, 4, 4, 4), generator=torch.Generator().manual_seed(num))
    return NumberedBatch(image, (image > 0.5).to(torch.uint8))


def make_step(
    scale: float | None = None,
    clip_norm: float | None = 12.0,
    loss: nn.Module | None = None,
    ema: bool = False,
    optim: OptimConfig | None = None,
) -> tuple[TrainStep, nn.Module]:
    """A step in fp32, or with fp16 and a scaler, both on the CPU."""
    torch.manual_seed(0)
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
    plugins = [] if scaler is None else [MixedPrecision("16-mixed", "cpu", scaler)]
    fabric = Fabric(accelerator="cpu", devices=1, plugins=plugins)
    model = TinyNet().eval()
    wrapped, optimizer = fabric.setup(model, (optim or OptimConfig()).build(model))
    average = WeightAverage(model, 0.5) if ema else None
    chosen = loss or nn.BCEWithLogitsLoss()
    target = lambda label: label.float()  # noqa: E731
    return TrainStep(fabric, wrapped, optimizer, chosen, target, clip_norm, False, average), model


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


class TimesTooMuch(nn.Module):
    """Finite loss whose gradient overflows in fp16 once the scaler has had its way."""

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (logits.float() * 1e3).mean()


@pytest.mark.parametrize("clip_norm", [None, 12.0])
@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_fp16_updates_with_every_fused_optimizer(kind: str, clip_norm: float | None) -> None:
    step, model = make_step(scale=1024.0, clip_norm=clip_norm, optim=OptimConfig(kind=kind))
    before = weights(model)
    assert step([batch()]).outcome == "updated"
    assert any(not torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


def test_overflow_of_the_scaler_is_mended_and_not_alarming() -> None:
    step, model = make_step(scale=2.0**40, loss=TimesTooMuch(), ema=True)
    before = weights(model)
    average = {name: value.clone() for name, value in step.average.average.items()}
    result = step([batch()])
    assert result.outcome == "overflow"
    assert step.scaler.get_scale() == 2.0**39
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    assert all(torch.equal(average[n], v) for n, v in step.average.average.items())
    outcomes = [step([batch()]).outcome for _ in range(40)]
    assert "updated" in outcomes
    assert "not finite" not in outcomes


def test_overflow_that_no_scale_mends_is_not_finite() -> None:
    step, _ = make_step(scale=1.0, loss=TimesTooMuch())

    class Infinite(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("inf")

    step.loss = nn.Identity()
    step._loss = lambda b: Infinite.apply(step.model(b.image).float()).mean()  # type: ignore[method-assign]
    assert step([batch()]).outcome == "not finite"


@pytest.mark.parametrize("scale", [None, 1024.0])
def test_a_loss_that_is_not_finite_leaves_weights_and_the_next_step_alone(
    scale: float | None,
) -> None:
    step, model = make_step(scale=scale)
    before = weights(model)
    bad = batch()
    bad.image[0, 0, 0, 0, 0] = float("nan")
    assert step([batch(), bad]).outcome == "not finite"
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert step([batch()]).outcome == "updated"


def test_accumulated_uneven_batches_give_the_gradient_of_one_batch() -> None:
    sgd = OptimConfig(kind="sgd", lr=1.0, momentum=0.0, weight_decay=0.0)
    whole = torch.rand((4, 1, 4, 4, 4), generator=torch.Generator().manual_seed(9))
    label = (whole > 0.5).to(torch.uint8)
    parts = [NumberedBatch(whole[:3], label[:3]), NumberedBatch(whole[3:], label[3:])]
    one, model = make_step(clip_norm=None, optim=sgd)
    other, other_model = make_step(clip_norm=None, optim=sgd)
    loss = one([NumberedBatch(whole, label)]).loss
    assert other(parts).loss == pytest.approx(loss, rel=1e-6)
    for a, b in zip(weights(model), weights(other_model), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_clipping_bounds_the_step_by_hand() -> None:
    sgd = OptimConfig(kind="sgd", lr=1.0, momentum=0.0, weight_decay=0.0)
    step, model = make_step(clip_norm=1e-3, optim=sgd)
    before = weights(model)
    step([batch()])
    moved = torch.stack([(a - b).norm() for a, b in zip(before, weights(model), strict=True)])
    # plain descent with rate 1 moves by the gradient, whose norm is the limit
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-2)


def test_position_counts_outcomes_by_hand() -> None:
    position = Position()
    position.hear(StepResult(2.0, 3, "updated"), num_batches=2)
    position.hear(StepResult(6.0, 1, "overflow"), num_batches=1)
    position.hear(StepResult(float("nan"), 2, "not finite"), num_batches=1)
    position.hear(StepResult(float("inf"), 2, "not finite"), num_batches=1)
    assert (position.step, position.updates, position.patches) == (5, 4, 8)
    assert (position.skipped, position.bad_in_a_row) == (3, 2)
    assert position.loss_sum / position.loss_count == (3 * 2.0 + 1 * 6.0) / 4
    position.hear(StepResult(1.0, 1, "updated"), num_batches=1)
    assert position.bad_in_a_row == 0
