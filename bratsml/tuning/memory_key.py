"""What of an experiment decides how much memory it takes, and which of two takes more."""

from __future__ import annotations

from typing import Any

from bratsml.config import Tree, flatten
from bratsml.experiment import Experiment
from bratsml.tuning.memory_rehearsal import MOST_BATCHES

Key = dict[str, Any]
"""Dotted setting names to plain values."""

WHOLE_SECTIONS = ("model", "output", "loss")
SETTINGS = {
    "loader": ("patch", "batch_size"),
    "train": ("accumulate", "ema_decay", "clip_norm"),
    "optim": ("kind", "momentum", "fused"),
    "inference": ("window_batch",),
    "compute": ("precision", "channels_last", "compile", "cudnn_benchmark", "deterministic"),
    "transfer": ("freeze_but_last",),
}
ONLY_WHETHER = ("train.ema_decay", "train.clip_norm", "optim.momentum")
"""Settings of which only counts whether they are on; as of every rate of dropout."""
GROWING = (
    "loader.patch",
    "loader.batch_size",
    "train.accumulate",
    "train.ema_decay",
    "inference.window",
    "inference.window_batch",
    "model.feature_size",
    "model.channels",
    "model.width",
    "in_channels",
)
"""More of these never takes less memory."""


def key_of(experiment: Experiment, in_channels: int) -> Key:
    """The settings that decide about memory; learning rates and the like are not among them."""
    tree = experiment.tree()
    kept: Tree = {name: tree[name] for name in WHOLE_SECTIONS}
    for section, names in SETTINGS.items():
        if section in tree:
            kept[section] = {n: tree[section][n] for n in names if n in tree[section]}
    kept["inference"]["window"] = list(experiment.window)
    kept["train"]["accumulate"] = min(experiment.train.accumulate, MOST_BATCHES)
    kept["label_scheme"] = experiment.data.label_scheme
    kept["in_channels"] = in_channels
    return {
        name: bool(value) if name in ONLY_WHETHER or "drop" in name else value
        for name, value in flatten(kept).items()
    }


def takes_at_least(larger: Key, smaller: Key) -> bool:
    """Whether the first surely takes as much memory as the second.

    True when they differ only in settings of which more means more memory.
    """
    if larger.keys() != smaller.keys():
        return False
    return all(_at_least(name, value, smaller[name]) for name, value in larger.items())


def _at_least(name: str, value: Any, other: Any) -> bool:
    if value == other:
        return True
    if name == "model.checkpointing":
        return other is True
    if name == "compute.precision":
        return bool(value == "32")
    if name not in GROWING:
        return False
    if isinstance(value, list | tuple):
        return len(value) == len(other) and all(map(_no_less, value, other))
    return _no_less(value, other)


def _no_less(value: float, other: float) -> bool:
    return bool(value >= other)
