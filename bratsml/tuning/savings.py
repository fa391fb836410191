"""What could be changed so that an experiment needs less memory, each from the least change on.

Pure arithmetic on settings: nothing is built and no memory is predicted here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bratsml.config import parse_assignments, with_overrides
from bratsml.errors import ConfigError
from bratsml.geometry import Shape

if TYPE_CHECKING:  # an experiment brings torch
    from bratsml.experiment import Experiment

Change = Mapping[str, Any]
"""Dotted setting names to plain values."""

SMALLER_PATCH, NARROWER = "smaller patch", "narrower network"

LONGEST_SIDE = 256
"""Patches beyond this hold more than a whole head at 1 mm and are not looked at."""
LARGEST_STEP = 256
LEAN_ATTENTION = ("sdpa", "triton")
"""Backends that store less than MONAI's own, the one that runs everywhere first.

``flex`` keeps what ``triton`` keeps, and is slow to compile.
"""
WIDTHS = (3 / 4, 1 / 2, 3 / 8, 1 / 4)
"""Shares of a network's width."""
FEATURE_STEP = 12
"""SwinUNETR's feature size is split over 3 to 24 heads."""


@dataclass(frozen=True)
class Saving:
    """One way of needing less memory.

    Attributes:
        name: In the field's words.
        cost: What it does to result and time.
        options: Nearest to the experiment first.
        keeps_result: Whether the network trained is the same up to rounding.
        ordered: Whether each option needs less memory than the one before.
    """

    name: str
    cost: str
    options: tuple[Change, ...]
    keeps_result: bool
    ordered: bool = True


def as_text(change: Change) -> str:
    """What to type after ``--set``: ``loader.patch=[96,96,96] train.accumulate=2``."""
    return " ".join(f"{name}={_scalar(value)}" for name, value in change.items())


def apply(experiment: Experiment, change: Change) -> Experiment:
    """The experiment that a user gets who types the change.

    Raises:
        ConfigError: The change does not go with the experiment.
    """
    return with_overrides(experiment, parse_assignments(as_text(change)))


def savings(experiment: Experiment) -> list[Saving]:
    """Everything that training could save, from the least harm to the result to the most."""
    every = [
        Saving(
            "gradient checkpointing",
            "same result, about a third more time",
            _checkpointing(experiment),
            True,
        ),
        Saving(
            "another attention backend",
            "same result",
            _attention(experiment),
            True,
            ordered=False,
        ),
        Saving(
            "smaller batches, accumulated",
            "same effective batch, more steps",
            _batches(experiment),
            True,
        ),
        Saving("bf16", "coarser rounding of activations", _precision(experiment), False),
        Saving(SMALLER_PATCH, "less context for each voxel", _smaller_patches(experiment), False),
        Saving(NARROWER, "fewer weights", _widths(experiment), False),
    ]
    return [saving for saving in every if saving.options]


def inference_savings(experiment: Experiment) -> list[Saving]:
    """What sliding-window inference could save without touching the training."""
    count = experiment.inference.window_batch
    batches = tuple({"inference.window_batch": n} for n in range(count - 1, 0, -1))
    every = [Saving("fewer windows at a time", "same result", batches, True)]
    window = experiment.inference.window
    chain = [] if window is None else _chain(experiment, window)
    if window in chain:  # not where a side is 0: as long as the volume
        smaller = chain[: chain.index(window)]
        options = tuple({"inference.window": list(sides)} for sides in reversed(smaller))
        every.append(Saving("smaller window", "less context for each voxel", options, False))
    return [saving for saving in every if saving.options]


def patches(experiment: Experiment) -> list[Change]:
    """Patches of the experiment's proportions that its network takes, smallest first."""
    chain = _chain(experiment, experiment.loader.patch)
    return [{"loader.patch": list(patch)} for patch in chain]


def side_steps(check: Callable[[Shape], None], patch: Shape) -> Shape:
    """By how much each side of a valid patch can grow; 0 for a side that cannot.

    Args:
        check: Raises ConfigError for a patch that the network refuses.
    """
    return (_step(check, patch, 0), _step(check, patch, 1), _step(check, patch, 2))


def patch_chain(patch: Shape, steps: Shape, longest: int = LONGEST_SIDE) -> list[Shape]:
    """Patches of about the same proportions, smallest first, no side of one shrinking in the next.

    The patch itself is one of them.

    Args:
        steps: Sides are multiples of these; 0 keeps a side as it is.
    """
    ratios = [side // step if step else 0 for side, step in zip(patch, steps, strict=True)]
    finest = 4 * max(ratios, default=1)
    chain: list[Shape] = []
    for part in range(1, finest * longest):
        sides = [
            max(1, round(ratio * part / finest)) * step if step else side
            for ratio, step, side in zip(ratios, steps, patch, strict=True)
        ]
        found: Shape = (sides[0], sides[1], sides[2])
        grown = [s for s, before in zip(found, patch, strict=True) if s > before]
        if not finest or (grown and max(grown) > longest):
            break
        if not chain or found != chain[-1]:
            chain.append(found)
    return chain or [patch]


def _scalar(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _has(experiment: Experiment, name: str) -> bool:
    return name in type(experiment.model).model_fields


def _model(experiment: Experiment) -> Any:
    return experiment.model


def _checkpointing(experiment: Experiment) -> tuple[Change, ...]:
    if not _has(experiment, "checkpointing") or _model(experiment).checkpointing:
        return ()
    return ({"model.checkpointing": True},)


def _attention(experiment: Experiment) -> tuple[Change, ...]:
    if not _has(experiment, "attention"):
        return ()
    now = _model(experiment).attention
    names = LEAN_ATTENTION[:1] if experiment.compute.device == "cpu" else LEAN_ATTENTION
    # what `auto` will choose is not known before; it counts as the first of them
    passed = {"reference": 0, "sdpa": 1, "auto": 1}.get(now, len(LEAN_ATTENTION))
    return tuple({"model.attention": name} for name in names[passed:])


def _batches(experiment: Experiment) -> tuple[Change, ...]:
    """Every smaller batch that divides the effective one."""
    batch = experiment.loader.batch_size
    effective = batch * experiment.train.accumulate
    return tuple(
        {"loader.batch_size": smaller, "train.accumulate": effective // smaller}
        for smaller in range(batch - 1, 0, -1)
        if effective % smaller == 0
    )


def _precision(experiment: Experiment) -> tuple[Change, ...]:
    return ({"compute.precision": "bf16"},) if experiment.compute.precision == "32" else ()


def _smaller_patches(experiment: Experiment) -> tuple[Change, ...]:
    chain = patches(experiment)
    here = chain.index({"loader.patch": list(experiment.loader.patch)})
    return tuple(reversed(chain[:here]))


def _widths(experiment: Experiment) -> tuple[Change, ...]:
    model = _model(experiment)
    options: list[Change] = []
    if _has(experiment, "feature_size"):
        sizes = range(model.feature_size - FEATURE_STEP, 0, -FEATURE_STEP)
        options = [{"model.feature_size": size} for size in sizes]
    elif _has(experiment, "channels"):
        scaled = [[max(1, round(c * share)) for c in model.channels] for share in WIDTHS]
        options = [{"model.channels": channels} for channels in scaled]
    elif _has(experiment, "width"):
        scaled_widths = [max(1, round(model.width * share)) for share in WIDTHS]
        options = [{"model.width": width} for width in scaled_widths if width < model.width]
    return _valid(experiment, options)


def _valid(experiment: Experiment, options: Sequence[Change]) -> tuple[Change, ...]:
    return tuple(_those_that_apply(experiment, options))


def _those_that_apply(experiment: Experiment, options: Sequence[Change]) -> Iterator[Change]:
    for change in options:
        try:
            if apply(experiment, change) != experiment:
                yield change
        except ConfigError:
            continue


def _chain(experiment: Experiment, patch: Shape) -> list[Shape]:
    """Patches of that patch's proportions that the network takes, smallest first."""
    check = experiment.model.check_patch
    return [p for p in patch_chain(patch, side_steps(check, patch)) if _takes(check, p)]


def _step(check: Callable[[Shape], None], patch: Shape, axis: int) -> int:
    for step in range(1, LARGEST_STEP + 1):
        sides = [side + step * (place == axis) for place, side in enumerate(patch)]
        if patch[axis] % step == 0 and _takes(check, (sides[0], sides[1], sides[2])):
            return step
    return 0


def _takes(check: Callable[[Shape], None], patch: Shape) -> bool:
    try:
        check(patch)
    except ConfigError:
        return False
    return True


def num_voxels(change: Change) -> int:
    """Voxels of the patch in a change."""
    return math.prod(change["loader.patch"])
