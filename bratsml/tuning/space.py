"""What a study may change, and over which range: dotted setting names to dimensions.

A dimension is described without Optuna, so that a study file reads as plain settings. Names are
those of the experiment (``optim.lr``); ``optim.betas[0]`` means one element of a list.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import Field, model_validator

from bratsml.config import Config, Tree, with_overrides
from bratsml.errors import ConfigError

if TYPE_CHECKING:  # an experiment brings torch, which a worker does not need
    from bratsml.experiment import Experiment

Params = Mapping[str, Any]
"""One point of a space as Optuna stores it: setting names to numbers, truth values or text."""

FIXED_SECTIONS = ("data", "split", "output", "evaluation", "launcher", "name")
"""What all trials of a study share: cases, folds and the meaning of the score."""
MOST_COMBINATIONS = 2000
"""Combinations of choices that are all validated before work starts."""
_INDEXED = re.compile(r"(?P<name>[\w.]+)\[(?P<index>\d+)\]")


class Uniform(Config):
    """A number between ``low`` and ``high``, all equally likely at first."""

    kind: Literal["uniform"] = "uniform"
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Uniform:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self

    def distribution(self) -> BaseDistribution:
        """As Optuna has it."""
        return FloatDistribution(self.low, self.high)

    def ends(self) -> tuple[Any, ...]:
        """The values that must be valid settings."""
        return self.low, self.high


class LogUniform(Uniform):
    """A positive number between ``low`` and ``high``, its logarithm equally likely at first."""

    kind: Literal["log_uniform"] = "log_uniform"  # type: ignore[assignment]
    low: float = Field(gt=0)

    def distribution(self) -> BaseDistribution:
        """As Optuna has it."""
        return FloatDistribution(self.low, self.high, log=True)


class WholeNumber(Config):
    """A whole number from ``low`` to ``high``, both included."""

    kind: Literal["whole_number"] = "whole_number"
    low: int
    high: int

    def distribution(self) -> BaseDistribution:
        """As Optuna has it."""
        return IntDistribution(self.low, self.high)

    def ends(self) -> tuple[Any, ...]:
        """The values that must be valid settings."""
        return self.low, self.high


class Choice(Config):
    """One of the values; a value may be a list, such as a patch."""

    kind: Literal["choice"] = "choice"
    values: tuple[Any, ...] = Field(min_length=1)

    def distribution(self) -> BaseDistribution:
        """As Optuna has it: lists as JSON text."""
        return CategoricalDistribution([_stored(value) for value in self.values])

    def ends(self) -> tuple[Any, ...]:
        """The values that must be valid settings."""
        return self.values


Dimension = Annotated[
    Uniform | LogUniform | WholeNumber | Choice,
    Field(discriminator="kind"),
]


class Space(Config):
    """The settings a study varies.

    Attributes:
        dimensions: By dotted name of the setting.
    """

    dimensions: dict[str, Dimension] = Field(min_length=1)

    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's view of the space."""
        return {name: dimension.distribution() for name, dimension in self.dimensions.items()}

    def with_dimensions(self, changes: Mapping[str, Dimension]) -> Space:
        """A copy in which those dimensions are replaced or added."""
        return Space(dimensions={**self.dimensions, **changes})

    def changes(self, params: Params, base: Experiment) -> Tree:
        """The point as a tree of overrides; list elements are put into the base's list."""
        tree: Tree = {}
        for name, stored in params.items():
            if name in self.dimensions:
                _plant(tree, name, _setting(stored, self.dimensions[name]), base.tree())
        return tree

    def apply(self, params: Params, base: Experiment) -> Experiment:
        """The experiment of that point.

        Raises:
            ConfigError: The point is not a valid experiment.
        """
        return with_overrides(base, self.changes(params, base))

    def point_of(self, experiment: Experiment) -> dict[str, Any]:
        """Where an experiment lies in the space.

        Raises:
            ConfigError: It lies outside; a search must be able to find its own default again.
        """
        point = {}
        for name, dimension in self.dimensions.items():
            value = look_up(experiment.tree(), name)
            stored = _stored(value)
            if not _holds(dimension, stored):
                raise ConfigError(
                    f"the default {name}={value} lies outside the space ({describe(dimension)}); "
                    "widen the space or change the base experiment"
                )
            point[name] = stored
        return point

    def check(self, base: Experiment) -> None:
        """Refuse a space with any point that is not a valid experiment.

        Raises:
            ConfigError: Naming the setting, the value and what is allowed.
        """
        for name in self.dimensions:
            if name.split(".")[0] in FIXED_SECTIONS:
                raise ConfigError(
                    f"a study cannot vary {name}: all its trials share the cases, the folds and "
                    "the score; run two studies"
                )
            look_up(base.tree(), name)
        for point in self._corners():
            try:
                self.apply(point, base)
            except ConfigError as error:
                shown = ", ".join(f"{name}={value}" for name, value in point.items())
                raise ConfigError(f"the space holds {shown}, which is not valid: {error}") from None

    def _corners(self) -> Iterator[dict[str, Any]]:
        """Every combination of choices, or each alone when they are too many; ends of ranges."""
        choices = {n: d for n, d in self.dimensions.items() if isinstance(d, Choice)}
        ranges = {n: d for n, d in self.dimensions.items() if n not in choices}
        for name, dimension in ranges.items():
            for value in dimension.ends():
                yield {name: value}
        if math.prod(len(d.values) for d in choices.values()) <= MOST_COMBINATIONS:
            for values in itertools.product(*(d.values for d in choices.values())):
                yield {n: _stored(v) for n, v in zip(choices, values, strict=True)}
        else:
            for name, choice in choices.items():
                for value in choice.values:
                    yield {name: _stored(value)}

    def thriftiest(self) -> dict[str, Any]:
        """The choices that should need the least memory: recomputing, and the smallest sizes."""
        return {
            name: _stored(_smallest(name, dimension.values))
            for name, dimension in self.dimensions.items()
            if isinstance(dimension, Choice)
        }


def look_up(tree: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name, perhaps with an index.

    Raises:
        ConfigError: There is no such setting.
    """
    matched = _INDEXED.fullmatch(name)
    value: Any = tree
    for key in (matched["name"] if matched else name).split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise ConfigError(
                f"the space names {name!r}, which the base experiment does not have; check the "
                "name, or the kind of model or optimizer"
            )
        value = value[key]
    if matched:
        if not isinstance(value, list | tuple) or int(matched["index"]) >= len(value):
            raise ConfigError(f"the space names {name!r}, but that setting is {value!r}")
        value = value[int(matched["index"])]
    return value


def describe(dimension: Dimension) -> str:
    """A dimension in a few words."""
    if isinstance(dimension, Choice):
        return "one of " + ", ".join(str(value) for value in dimension.values)
    return f"{dimension.low} to {dimension.high}"


def _holds(dimension: Dimension, stored: Any) -> bool:
    if isinstance(dimension, Choice):
        return any(
            stored == _stored(v) and type(stored) is type(_stored(v)) for v in dimension.values
        )
    return isinstance(stored, int | float) and dimension.low <= stored <= dimension.high


def _stored(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def _setting(stored: Any, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice) and isinstance(stored, str):
        for value in dimension.values:
            if _stored(value) == stored:
                return value
    return stored


def _plant(tree: Tree, name: str, value: Any, base: Tree) -> None:
    matched = _INDEXED.fullmatch(name)
    keys = (matched["name"] if matched else name).split(".")
    section = tree
    for key in keys[:-1]:
        section = section.setdefault(key, {})
    if matched:
        whole = list(section.get(keys[-1], look_up(base, matched["name"])))
        whole[int(matched["index"])] = value
        value = whole
    section[keys[-1]] = value


def _smallest(name: str, values: tuple[Any, ...]) -> Any:
    if all(isinstance(value, bool) for value in values):
        return name.endswith("checkpointing") if len(values) > 1 else values[0]
    if all(isinstance(value, int | float | list | tuple) for value in values):
        return min(values, key=lambda v: math.prod(v) if isinstance(v, list | tuple) else v)
    return values[0]
