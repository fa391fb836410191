"""A sweep made ready: the grid read, every combination checked, the data prepared."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from bratsml.compute.queue import QueuePolicy
from bratsml.config import Tree, flatten, parse_assignments, split_assignments, with_overrides
from bratsml.data.extra import split_of
from bratsml.data.folds import Split
from bratsml.errors import BratsmlError, ConfigError
from bratsml.experiment import Experiment, find_experiment_file
from bratsml.files import sha256_of_json
from bratsml.tracking.store import project_root
from bratsml.workflows.arguments import whole_number
from bratsml.workflows.fold import fingerprint
from bratsml.workflows.request import (
    Prepared,
    Request,
    lay_over,
    prepare_experiment,
    require_hardware,
    say_phantom_profile,
    typed_layers,
)
from bratsml.workflows.start import Start

Command = Literal["cv", "train"]
Grid = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class SweepOptions:
    """The arguments of ``sweep`` as typed; empty means not given.

    Attributes:
        experiment: A file, or a name in ``experiments/``.
        grid: Pieces ``"optim.lr=1e-3,3e-4 model.kind=unet,mednext"``.
        command: What each combination is: ``cv``, or ``train`` on fold 0.
        launcher: ``processes`` or ``inline``.
    """

    experiment: str = ""
    grid: Iterable[str] = ()
    overrides: Iterable[str] = ()
    data: str = ""
    folds: str = ""
    epochs: str = ""
    command: str = ""
    workers: str = ""
    retries: str = ""
    timeout_hours: str = ""
    launcher: str = ""


@dataclass(frozen=True)
class Combination:
    """One point of the grid, ready to run.

    Attributes:
        number: Place in the grid, from 0: the first is the base of comparisons.
        values: By dotted name of the setting.
        fingerprint: Of its run.
    """

    number: int
    values: Mapping[str, Any]
    prepared: Prepared
    split: Split
    fingerprint: str

    @property
    def label(self) -> str:
        """``optim.lr=0.001 model.kind=unet``."""
        return label_of(self.values)

    @property
    def experiment(self) -> Experiment:
        """Resolved."""
        return self.prepared.experiment


@dataclass(frozen=True)
class Sweep:
    """A sweep that is ready to run."""

    combinations: tuple[Combination, ...]
    grid: Grid
    command: Command
    launcher: Literal["processes", "inline"]
    workers: int
    policy: QueuePolicy
    root: Path = field(repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """Equal for sweeps of the same runs in the same order."""
        parts = [combination.fingerprint for combination in self.combinations]
        return sha256_of_json(["sweep", self.command, parts])

    @property
    def name(self) -> str:
        """Of the base experiment."""
        return self.combinations[0].experiment.name

    @property
    def base(self) -> Combination:
        """The first: the others are compared with it."""
        return self.combinations[0]


def set_up(options: SweepOptions) -> Sweep:
    """Check everything that can be checked, then prepare the data.

    Raises:
        ConfigError: An argument is wrong, or a combination is not a valid experiment; names it.
        DataError: The data cannot be used.
    """
    root = project_root()
    command = _one_of("command", options.command or "cv", ("cv", "train"))
    launcher = _one_of("launcher", options.launcher or "processes", ("processes", "inline"))
    policy = _policy(options, launcher)
    workers = whole_number("workers", options.workers or "1")
    if launcher == "inline" and workers > 1:
        raise ConfigError("the inline launcher runs one combination at a time; leave workers out")
    if options.folds and command == "train":
        raise ConfigError("folds belongs to command=cv; train validates on one fold")
    grid = parse_grid(options.grid)
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    experiments = [_resolve(options, point, root) for point in points]
    if not options.data:
        say_phantom_profile(", ".join(dict.fromkeys(e.model.kind for e in experiments)))
    combinations = _prepare(points, experiments, options.data, command)
    _refuse_twins(combinations)
    return Sweep(tuple(combinations), grid, command, launcher, workers, policy, root)


def parse_grid(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Values by dotted name, both in the order typed.

    Values are separated by commas and may be lists: ``loader.patch=[64,64,64],[96,96,96]``.

    Raises:
        ConfigError: A piece is not ``name=value,value``, or a name comes twice.
    """
    grid: dict[str, list[Any]] = {}
    for piece in (piece for text in texts for piece in split_assignments(text)):
        name, equals, values = piece.partition("=")
        try:
            parsed = flatten(parse_assignments([f"{name}=[{values}]" if equals else piece]))
        except ConfigError as error:
            raise ConfigError(
                f"grid {piece!r} is not of the form name=value,value; for example "
                "optim.lr=1e-3,3e-4 or loader.patch=[64,64,64],[96,96,96]"
            ) from error
        if name in grid:
            raise ConfigError(f"the grid names {name} twice; give all its values at once")
        if not parsed[name]:
            raise ConfigError(f"the grid gives no values for {name}; add some or leave it out")
        grid[name] = parsed[name]
    if not grid:
        raise ConfigError("a sweep needs a grid: --grid optim.lr=1e-3,3e-4 model.kind=unet,mednext")
    return grid


def split_arguments(arguments: Sequence[str], experiment: str) -> tuple[str, list[str]]:
    """The experiment and the pieces of the grid among arguments typed without an option.

    Args:
        experiment: From ``--experiment``; ``""`` when not given.

    Raises:
        ConfigError: Two experiments.
    """
    names = [text for text in arguments if "=" not in text]
    if experiment:
        names.insert(0, experiment)
    if len(names) > 1:
        raise ConfigError(
            f"a sweep is of one experiment, received {' and '.join(names)}; settings of the grid "
            "are name=value,value"
        )
    return "".join(names), [text for text in arguments if "=" in text]


def label_of(values: Mapping[str, Any]) -> str:
    """``optim.lr=0.001 model.kind=unet``."""
    return " ".join(f"{name}={shown(value)}" for name, value in values.items())


def shown(value: Any) -> str:
    """A value as one types it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _resolve(options: SweepOptions, point: Mapping[str, Any], root: Path) -> Experiment:
    typed = options.experiment
    named = {"experiment": typed} if typed.endswith((".yaml", ".yml")) else {"model": typed}
    path = find_experiment_file(root, **named)
    shorthands: Tree = {}
    if options.folds:
        shorthands = {"split": {"folds": whole_number("folds", options.folds, 2)}}
    request = Request(epochs=options.epochs, overrides=options.overrides)
    layers = typed_layers(request, shorthands)
    changes = parse_assignments([f"{name}={json.dumps(value)}" for name, value in point.items()])
    try:
        experiment = lay_over(path, [*layers, changes], root, phantom=not options.data)
        require_hardware(experiment)
        Start().require_weights(experiment.transfer)
    except ConfigError as error:
        raise ConfigError(f"combination {label_of(point)}: {error}") from error
    return experiment


def _prepare(
    points: Sequence[Mapping[str, Any]],
    experiments: Sequence[Experiment],
    data: str,
    command: Command,
) -> list[Combination]:
    ready: dict[str, Prepared] = {}
    combinations = []
    for number, (point, experiment) in enumerate(zip(points, experiments, strict=True)):
        wanted = sha256_of_json(experiment.data.tree())
        if wanted not in ready:
            ready[wanted] = prepare_experiment(experiment, data)
        first = ready[wanted]
        resolved = with_overrides(experiment, {"data": first.experiment.data.tree()})
        prepared, store = replace(first, experiment=resolved), first.store
        try:
            split = split_of(store, prepared.experiment.split)
        except BratsmlError as error:
            raise ConfigError(f"combination {label_of(point)}: {error}") from error
        fold = (0,) if command == "train" else ()
        key = fingerprint(command, prepared.experiment, store, split, *fold)
        combinations.append(Combination(number, point, prepared, split, key))
    return combinations


def _refuse_twins(combinations: Sequence[Combination]) -> None:
    known: dict[str, Combination] = {}
    for combination in combinations:
        twin = known.setdefault(combination.fingerprint, combination)
        if twin is not combination:
            raise ConfigError(
                f"combinations {twin.label} and {combination.label} would give the same result; "
                "take one of them out of the grid"
            )


def _policy(options: SweepOptions, launcher: str) -> QueuePolicy:
    tree: Tree = {}
    if options.retries:
        tree["retries"] = whole_number("retries", options.retries, 0)
    if options.timeout_hours:
        try:
            hours = float(options.timeout_hours)
        except ValueError:
            hours = -1.0
        if not 0 < hours < 1e6:
            raise ConfigError(
                f"timeout-hours must be a number above 0, received {options.timeout_hours!r}"
            )
        if launcher == "inline":
            raise ConfigError("the inline launcher cannot end what takes too long; use processes")
        tree["timeout_hours"] = hours
    return QueuePolicy(**tree)


def _one_of(name: str, value: str, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, received {value!r}")
    return value
