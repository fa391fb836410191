"""Peak memory of a training, found by running it with tensors that have shapes but no values."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.amp import GradScaler

from bratsml.config import with_overrides
from bratsml.data.batch import Batch
from bratsml.experiment import Experiment
from bratsml.models.swinunetr import SwinUNETRConfig
from bratsml.tuning import memory_cpu, memory_cuda
from bratsml.tuning.memory_ledger import Ledger, Peak
from bratsml.tuning.memory_rehearsal import Rehearsal, build_network, random_batch, set_up

Device = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class Traced:
    """The fullest moment of a training step, and of one window."""

    training: Peak
    inference: Peak


def trace(experiment: Experiment, in_channels: int, device: Device = "cuda") -> Traced:
    """Run a training step, with the optimizer's state there, and one window on fake tensors.

    Args:
        device: Whose allocator, kernels and autocast to assume; any machine can do either.
    """
    wanted = as_traced(experiment, device)
    network = build_network(wanted, in_channels)
    fake = FakeTensorMode()
    if wanted.compute.channels_last:
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    _take_values_away(network, fake)
    if device == "cuda":
        ledger = Ledger(memory_cuda.round_up, memory_cuda.convolution_scratch(wanted))
        behaviour: Any = memory_cuda.cuda_behaviour()
    else:
        ledger = Ledger(memory_cpu.round_up, memory_cpu.scratch)
        behaviour = nullcontext()
    # the weights are where they belong, and fake ones cannot be moved
    stay = mock.patch.object(nn.Module, "to", lambda module, *_, **__: module)
    with warnings.catch_warnings(), stay, fake, ledger, behaviour:
        warnings.simplefilter("ignore")
        ledger.note([*network.parameters(), *network.buffers()], "weights")
        rehearsal = set_up(
            wanted,
            network,
            in_channels,
            fabric=_fabric(wanted),
            batch=random_batch if device == "cpu" else HostBatch,
        )
        with _filing(rehearsal, ledger):
            rehearsal.make_optimizer_state()
            start = ledger.now
            rehearsal.steps(1)
            training = ledger.peak(start)
            start = ledger.now
            rehearsal.window()
            inference = ledger.peak(start)
    return Traced(training, inference)


def as_traced(experiment: Experiment, device: Device) -> Experiment:
    """The experiment with attention that can be traced and stands for what would run.

    FlexAttention is compiled, which cannot be traced; it keeps what our own kernel keeps. What
    ``auto`` chooses is measured on the GPU; until then it counts as PyTorch's own function, which
    takes the most memory of the likely choices.
    """
    if not isinstance(experiment.model, SwinUNETRConfig):
        return experiment
    name = experiment.model.attention
    stands_for = {"flex": "triton", "auto": "sdpa" if device == "cuda" else "reference"}
    return with_overrides(experiment, {"model": {"attention": stands_for.get(name, name)}})


class HostBatch(Batch):
    """A batch in the host's memory, of which only what is copied to the device counts."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(_HostTensor(shape, torch.float32), _label_of(shape), [])  # type: ignore[arg-type]


@dataclass(frozen=True)
class _HostTensor:
    shape: tuple[int, ...]
    dtype: torch.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def to(self, device: torch.device, **_: Any) -> Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=device)


def _label_of(shape: tuple[int, ...]) -> _HostTensor:
    return _HostTensor((shape[0], 1, *shape[2:]), torch.uint8)


def _fabric(experiment: Experiment) -> Fabric:
    """Fabric on the CPU in any precision; fp16's scaling takes no memory worth counting."""
    kind = experiment.compute.precision
    if kind == "32":
        return Fabric(accelerator="cpu", devices=1)
    scaler = GradScaler("cpu", enabled=False) if kind == "fp16" else None
    flag: Any = {"bf16": "bf16-mixed", "fp16": "16-mixed"}[kind]
    precision = MixedPrecision(flag, "cpu", scaler)
    return Fabric(accelerator="cpu", devices=1, plugins=[precision])


def _take_values_away(network: nn.Module, fake: FakeTensorMode) -> None:
    """Replace every weight and buffer by a fake one, shared ones by the same."""
    made: dict[int, Tensor] = {}
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                if id(weight) not in made:
                    empty = fake.from_tensor(weight.detach())
                    made[id(weight)] = nn.Parameter(empty, weight.requires_grad)
                module._parameters[name] = made[id(weight)]  # type: ignore[assignment]
        for name, value in module._buffers.items():
            if value is not None:
                made.setdefault(id(value), fake.from_tensor(value))
                module._buffers[name] = made[id(value)]


@contextmanager
def _filing(rehearsal: Rehearsal, ledger: Ledger) -> Iterator[None]:
    """File storages while the work goes on, at the moments when it is known what they are."""
    training = rehearsal.training
    weights = [w for w in training.model.parameters() if w.requires_grad]
    optimizer = training.optimizer.optimizer

    def gradients(*_: Any) -> None:
        ledger.note([w.grad for w in weights if w.grad is not None], "gradients")

    def end_of_forward(*_: Any) -> None:
        gradients()
        ledger.note_rest("activations")

    def state(*_: Any) -> None:
        kept = [value for entry in optimizer.state.values() for value in entry.values()]
        ledger.note(kept, "optimizer")

    moving = training.step.average
    if moving is not None:
        ledger.note(moving.average.values(), "optimizer")
    hooks = [
        training.step.loss.register_forward_hook(end_of_forward),
        optimizer.register_step_pre_hook(gradients),
        optimizer.register_step_post_hook(state),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
