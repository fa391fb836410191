"""Optimizers, the groups of weights they treat differently, and their settings."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from bratsml.config import Config
from bratsml.errors import ConfigError
from bratsml.training.schedule import ScheduleConfig
from bratsml.training.settings import TrainConfig

SCHEDULE_FREE = ("adamw_schedule_free", "sgd_schedule_free")
_LR_FACTOR = "lr_factor"


class LrFactor(Config):
    """A learning rate of its own for some weights.

    Attributes:
        match: Pattern of names as in ``state_dict``, with ``*`` and ``?``: ``encoder.*``.
        factor: What the learning rate is multiplied with.
    """

    match: str = Field(min_length=1)
    factor: float = Field(gt=0)


class OptimConfig(Config):
    """One optimizer for all weights that are not frozen.

    Attributes:
        kind: ``adam`` (Kingma & Ba 2015), ``adamw`` (Loshchilov & Hutter 2019), ``sgd``, or the
            schedule-free forms of the last two (Defazio et al. 2024), which average the weights
            instead of lowering the learning rate; the average is validated and kept.
        lr: Highest learning rate; the schedule scales it.
        weight_decay: Added to the gradient by ``adam`` and both kinds of ``sgd``, decoupled in both
            kinds of ``adamw``.
        decay_norms_and_biases: ``False`` spares biases, the weights of norm layers and whatever
            else has at most one dimension (PReLU slopes).
        betas: Decay of the two moments of ``adam`` and ``adamw``.
        momentum: Of ``sgd``; ``nesterov`` with it.
        lr_factors: The first that matches a weight's name holds for it.
        fused: One kernel for all weights; ``None`` wherever the device has it. The schedule-free
            kinds have none.
    """

    kind: Literal["adam", "adamw", "sgd", "adamw_schedule_free", "sgd_schedule_free"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    decay_norms_and_biases: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    nesterov: bool = True
    lr_factors: tuple[LrFactor, ...] = ()
    fused: bool | None = None

    @model_validator(mode="after")
    def _schedule_free_has_its_parts(self) -> OptimConfig:
        if self.kind == "sgd_schedule_free" and self.momentum == 0:
            raise ValueError("sgd_schedule_free needs momentum above 0")
        if self.schedule_free and self.fused:
            raise ValueError(f"{self.kind} has no fused form; leave fused out")
        return self

    @property
    def schedule_free(self) -> bool:
        """Whether the optimizer averages weights instead of following a schedule."""
        return self.kind in SCHEDULE_FREE

    def check_beside(self, schedule: ScheduleConfig, train: TrainConfig) -> None:
        """Refuse what works against the optimizer.

        Raises:
            ConfigError: A schedule-free optimizer with a falling rate or with an average besides.
        """
        if self.schedule_free and schedule.kind != "constant":
            raise ConfigError(
                f"optim.kind={self.kind} replaces the schedule; set schedule.kind=constant "
                "(schedule.warmup_epochs may stay)"
            )
        if self.schedule_free and train.ema_decay is not None:
            raise ConfigError(
                f"optim.kind={self.kind} averages the weights itself; leave train.ema_decay unset"
            )

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over the weights of a network.

        Raises:
            ConfigError: An entry of ``lr_factors`` decides for no weight, or all are frozen.
        """
        groups = self._groups(model)
        if self.schedule_free:
            return self._build_schedule_free(groups)
        weights = [weight for group in groups for weight in group["params"]]
        fused = self.fused
        if fused is None:
            fused = all(w.is_floating_point() and w.device.type in ("cpu", "cuda") for w in weights)
        shared: dict[str, Any] = {
            "lr": self.lr,
            "weight_decay": self.weight_decay,
            "fused": fused,
        }
        if self.kind == "sgd":
            nesterov = self.nesterov and self.momentum > 0
            return torch.optim.SGD(groups, momentum=self.momentum, nesterov=nesterov, **shared)
        cls = torch.optim.Adam if self.kind == "adam" else torch.optim.AdamW
        return cls(groups, betas=self.betas, **shared)

    def _build_schedule_free(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        import schedulefree

        shared: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        optimizer: torch.optim.Optimizer
        if self.kind == "sgd_schedule_free":
            optimizer = schedulefree.SGDScheduleFree(groups, momentum=self.momentum, **shared)
        else:
            optimizer = schedulefree.AdamWScheduleFree(groups, betas=self.betas, **shared)
        return optimizer

    def _groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Weights that are treated alike, in the order of the network's first of each kind."""
        spared = set() if self.decay_norms_and_biases else _norms_and_biases(model)
        unused = {entry.match for entry in self.lr_factors}
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for name, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            entry = next((e for e in self.lr_factors if fnmatchcase(name, e.match)), None)
            factor = 1.0
            if entry is not None:
                factor = entry.factor
                unused.discard(entry.match)
            decay = 0.0 if name in spared else self.weight_decay
            new = {"lr": self.lr * factor, "weight_decay": decay, _LR_FACTOR: factor}
            group = groups.setdefault((factor, decay), {"params": [], **new})
            group["params"].append(weight)
        if unused:
            raise ConfigError(
                f"optim.lr_factors: {', '.join(sorted(unused))} decides for no trained weight of "
                "this network; correct or remove it"
            )
        if not groups:
            raise ConfigError("every weight of the network is frozen; there is nothing to train")
        return list(groups.values())


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate, times its own factor in every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(_LR_FACTOR, 1.0)


def lr_of(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate last set, without the groups' own factors."""
    group = optimizer.param_groups[0]
    return float(group["lr"]) / float(group.get(_LR_FACTOR, 1.0))


def _norms_and_biases(model: nn.Module) -> set[str]:
    """Names of weights that decay is of no use to.

    Norm layers are told by their class's name, so that a network's own are found too.
    """
    names = set()
    for prefix, module in model.named_modules():
        is_norm = "norm" in type(module).__name__.lower()
        for name, weight in module.named_parameters(prefix, recurse=False):
            is_bias = "bias" in name.rpartition(".")[2]  # relative position biases are 2-D
            if is_bias or weight.ndim <= 1 or is_norm:
                names.add(name)
    return names
