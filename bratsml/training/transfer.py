"""Starting from trained weights: partial load, fresh convolutions, frozen layers.

A *layer* is a module with weights of its own (a convolution, a norm layer, an activation with a
slope). Layers are counted in the order in which the network registers them, the order of its state
dict: from the first convolution to the heads. Where a network registers all its up-sampling blocks
before the blocks between them (MedNeXt does), the last layers are those of the blocks between.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import MethodType
from typing import Any

import pandas as pd
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from bratsml.config import Config
from bratsml.errors import CheckpointError, ConfigError
from bratsml.models.mednext import upkern
from bratsml.training.checkpoint import FORMAT, read_plain

SMALLEST_SHARE = 0.95
"""Share of the network's keys, and of its values, that a file must hold."""
_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.")
_HOLDERS = ("state_dict", "model_state_dict", "network_weights", "model")
"""Under what others keep the weights in their checkpoints: MONAI, MedNeXt, nnU-Net."""
_TAKEN = ("loaded", "kernel enlarged")


class TransferConfig(Config):
    """What is taken over from trained weights, and what of it is trained on.

    Attributes:
        start: SHA-256 of the files that training starts from, one per fold or one for all; filled
            in by ``bratsml finetune``.
        freeze_but_last: Layers that are trained, from the end; ``None`` trains all. What is frozen
            keeps its weights and, in norm layers, its running statistics.
        reset_last: The convolutions among that many last layers start from fresh weights.
        reset: So do the convolutions whose names match one of these patterns: ``out_*``.
        keep_zeros: Weights that are zero in the file stay zero: what was pruned is not regrown.
    """

    start: tuple[str, ...] = ()
    freeze_but_last: int | None = Field(default=None, ge=1)
    reset_last: int = Field(default=0, ge=0)
    reset: tuple[str, ...] = ()
    keep_zeros: bool = False

    @model_validator(mode="after")
    def _zeros_are_taken_over(self) -> TransferConfig:
        if self.keep_zeros and (self.reset or self.reset_last):
            raise ValueError(
                "keep_zeros holds zeros of the start weights, and what is reset does not take them "
                "over; leave keep_zeros or reset and reset_last out"
            )
        return self

    @property
    def is_used(self) -> bool:
        """Whether anything here asks for trained weights."""
        return self != TransferConfig()


@dataclass(frozen=True)
class LoadReport:
    """What of a file went into a network.

    Attributes:
        rows: One per key of the network or the file: ``key``, ``shape`` and ``shape_in_file``
            (empty where it is not), ``outcome``: loaded, kernel enlarged, reset, missing, shape
            differs or unexpected.
        share_of_keys: Of the network's keys that are not reset, those taken from the file.
        share_of_values: The same, counting single numbers.
    """

    rows: pd.DataFrame
    share_of_keys: float
    share_of_values: float

    def count(self, *outcomes: str) -> int:
        """Number of keys with one of those outcomes."""
        return int(self.rows["outcome"].isin(outcomes).sum())

    @property
    def num_taken(self) -> int:
        """Keys whose weights came from the file."""
        return self.count(*_TAKEN)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights in a checkpoint of ours (the averaged ones, if any) or in a plain state dict.

    A state dict may be the whole file or lie under one of the usual names, e.g. ``state_dict``.

    Raises:
        CheckpointError: The file is damaged, could run code, or holds no weights.
    """
    content = read_plain(path)
    found = content if isinstance(content, Mapping) else {}
    if found.get("format") == FORMAT and "model" in found:
        found = found.get("ema") or found["model"]
    else:
        held = (found[name] for name in _HOLDERS if isinstance(found.get(name), Mapping))
        found = next(held, found)
    weights = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        raise CheckpointError(
            f"{path.name} holds no weights; give a checkpoint of ours or a state dict"
        )
    return weights


def start_from(
    model: nn.Module, weights: Mapping[str, Tensor], config: TransferConfig, source: str
) -> LoadReport:
    """Put trained weights into a network, all but what is to start afresh.

    Prefixes that wrappers leave (``module.``) are taken off. Kernels smaller than the network's are
    enlarged (UpKern). What is reset keeps the values the network was built with.

    Args:
        source: Named in messages, e.g. the file.

    Raises:
        CheckpointError: Fewer than 95 % of the keys or of the values match, or some are not finite.
        ConfigError: A pattern of ``reset`` fits no convolution.
    """
    own = model.state_dict()
    theirs = _unwrapped(weights, own)
    fresh = _keys_to_reset(model, config)
    outcomes = {name: _outcome(name, value, theirs, fresh) for name, value in own.items()}
    report = _report(own, theirs, outcomes)
    _require_match(report, source)
    taken = {name: theirs[name] for name, outcome in outcomes.items() if outcome in _TAKEN}
    for name, value in taken.items():
        if not torch.isfinite(value).all():
            raise CheckpointError(f"{source}: {name} holds NaN or infinity; use another checkpoint")
    upkern(model, {name: taken.get(name, value) for name, value in own.items()})
    return report


def freeze(model: nn.Module, config: TransferConfig) -> None:
    """Freeze all but the last layers; the frozen ones' running statistics stay as they are.

    Raises:
        ConfigError: The network has fewer layers, or a frozen one is to start afresh.
    """
    num_trained = config.freeze_but_last
    if num_trained is None:
        return
    layers = [name for name, _ in layers_of(model)]
    if num_trained > len(layers):
        raise ConfigError(
            f"transfer.freeze_but_last is {num_trained}, but this network has {len(layers)} "
            "layers; lower it"
        )
    trained = set(layers[len(layers) - num_trained :])
    untrained = sorted({key.rpartition(".")[0] for key in _keys_to_reset(model, config)} - trained)
    if untrained:
        raise ConfigError(
            f"{untrained[0]} would start from fresh weights and stay frozen; raise "
            "transfer.freeze_but_last or leave it out of what is reset"
        )
    modules = dict(model.named_modules())
    moving = {id(w) for name in trained for w in modules[name].parameters(recurse=False)}
    for weight in model.parameters():
        weight.requires_grad_(id(weight) in moving)
    for name, module in modules.items():
        if name == layers[len(layers) - num_trained]:
            break  # a norm layer without weights counts to what comes before the next layer
        if getattr(module, "running_mean", None) is not None:
            module.train = MethodType(_stay_in_eval, module)
            module.training = False


def require_frozen_loaded(model: nn.Module, report: LoadReport) -> None:
    """Refuse a frozen weight that did not come from the file: it would stay at random.

    Raises:
        ConfigError: Naming the first one.
    """
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    rows = report.rows
    for key in rows["key"][rows["outcome"].isin(["missing", "shape differs"])]:
        if key in frozen:
            raise ConfigError(
                f"{key} is frozen but not in the start weights, so it would stay at random; raise "
                "transfer.freeze_but_last or start from the same network"
            )


def layers_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of every layer, in order; see the file's head for what counts."""
    for name, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            yield name, module


def _stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:
    """Stands for ``train`` of a norm layer whose running statistics are frozen."""
    return module


def _keys_to_reset(model: nn.Module, config: TransferConfig) -> set[str]:
    layers = list(layers_of(model))
    last = {name for name, _ in layers[max(len(layers) - config.reset_last, 0) :]}
    convolutions = [name for name, module in layers if isinstance(module, _ConvNd)]
    for pattern in config.reset:
        if not any(fnmatchcase(name, pattern) for name in convolutions):
            raise ConfigError(
                f"transfer.reset: {pattern} fits no convolution of this network (the last is "
                f"{convolutions[-1] if convolutions else 'none'}); correct it"
            )
    modules = dict(layers)
    return {
        f"{name}.{key}"
        for name in convolutions
        if name in last or any(fnmatchcase(name, pattern) for pattern in config.reset)
        for key, _ in modules[name].named_parameters(recurse=False)
    }


def _unwrapped(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with as many wrappers' prefixes taken off as makes the most keys match."""
    best = names = {name: name for name in weights}
    most = len(own.keys() & set(names.values()))
    for _ in range(len(_WRAPPERS)):
        names = {name: _without_wrapper(short) for name, short in names.items()}
        matching = len(own.keys() & set(names.values()))
        if matching > most:
            best, most = names, matching
    return {short: weights[name] for name, short in best.items()}


def _without_wrapper(name: str) -> str:
    return next((name.removeprefix(w) for w in _WRAPPERS if name.startswith(w)), name)


def _outcome(name: str, value: Tensor, theirs: Mapping[str, Tensor], fresh: set[str]) -> str:
    if name in fresh:
        return "reset"
    if name not in theirs:
        return "missing"
    if theirs[name].shape == value.shape:
        return "loaded"
    return "kernel enlarged" if _is_smaller_kernel(theirs[name], value) else "shape differs"


def _is_smaller_kernel(theirs: Tensor, own: Tensor) -> bool:
    """Whether only the odd sides of a 3-D kernel differ, each smaller and none pointwise."""
    if own.ndim != 5 or theirs.ndim != 5 or theirs.shape[:2] != own.shape[:2]:
        return False
    sides = list(zip(theirs.shape[2:], own.shape[2:], strict=True))
    return all(1 < small <= large and small % 2 and large % 2 for small, large in sides)


def _report(
    own: Mapping[str, Tensor], theirs: Mapping[str, Tensor], outcomes: Mapping[str, str]
) -> LoadReport:
    def shape(tensors: Mapping[str, Tensor], name: str) -> str:
        return str(list(tensors[name].shape)) if name in tensors else ""

    every = dict(outcomes) | {name: "unexpected" for name in theirs if name not in own}
    rows = [
        {
            "key": name,
            "shape": shape(own, name),
            "shape_in_file": shape(theirs, name),
            "outcome": outcome,
        }
        for name, outcome in every.items()
    ]
    wanted = [name for name, outcome in outcomes.items() if outcome != "reset"]
    taken = [name for name in wanted if outcomes[name] in _TAKEN]
    num_values = sum(own[name].numel() for name in wanted)
    return LoadReport(
        rows=pd.DataFrame(rows),
        share_of_keys=len(taken) / max(len(wanted), 1),
        share_of_values=sum(own[name].numel() for name in taken) / max(num_values, 1),
    )


def _require_match(report: LoadReport, source: str) -> None:
    if min(report.share_of_keys, report.share_of_values) >= SMALLEST_SHARE:
        return
    firsts = []
    for outcome in ("missing", "shape differs", "unexpected"):
        rows: Any = report.rows[report.rows["outcome"] == outcome]
        if len(rows):
            first = rows.iloc[0]
            shapes = [
                f"{first[column]} in the {where}"
                for column, where in (("shape", "network"), ("shape_in_file", "file"))
                if first[column]
            ]
            firsts.append(f"{len(rows)} {outcome}, first {first['key']} {' and '.join(shapes)}")
    wanted = len(report.rows) - report.count("reset", "unexpected")
    raise CheckpointError(
        f"{source} fits {report.num_taken} of {wanted} keys of this network "
        f"({report.share_of_keys:.1%} of the keys, {report.share_of_values:.1%} of the values; "
        f"{SMALLEST_SHARE:.0%} of both are needed): {'; '.join(firsts)}; start from weights of the "
        "same model, or reset what may differ"
    )
