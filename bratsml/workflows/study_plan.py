"""What a study file says, and what its command line changes of it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, model_validator

from bratsml.config import Config, Tree, merge
from bratsml.errors import ConfigError
from bratsml.tuning.settings import Objective, PrunerConfig, SamplerConfig
from bratsml.tuning.space import Dimension, Space
from bratsml.workflows.arguments import whole_number

ALL_OBJECTIVES: tuple[Objective, ...] = ("dice", "epoch_seconds", "peak_memory_mb")


class Budget(Config):
    """How much a study may take.

    Attributes:
        trials: Points tried, pruned and infeasible ones included.
        hours: After so long no new trial begins; those running end. ``None`` for no limit.
        vram_gb: Device memory of one trial; what does not fit is not trained.
        reruns: How many of the best are trained again with fresh seeds, beside the default, before
            a winner is named; 0 leaves it at the search.
        seeds: Fresh seeds of each of these.
    """

    trials: int = Field(default=50, ge=1)
    hours: float | None = Field(default=None, gt=0)
    vram_gb: float | None = Field(default=8.0, gt=0)
    reruns: int = Field(default=3, ge=0)
    seeds: int = Field(default=1, ge=1)


class Smaller(Config):
    """What a study becomes without data: small enough for the phantom set on two CPU cores.

    Attributes:
        changes: Laid over the base experiment.
        space: Dimensions that replace those of the study.
    """

    changes: Tree = Field(default_factory=dict)
    space: dict[str, Dimension] = Field(default_factory=dict)
    budget: Budget = Budget(trials=4, reruns=1)
    pruner: PrunerConfig | None = None


class StudyPlan(Config):
    """A study: base experiment, space, sampler, pruner, budget.

    Attributes:
        name: Of the study in its storage; with ``--new`` a number is added.
        base: File in ``experiments/``, without its suffix.
        changes: Laid over the base, for all trials.
        folds: Folds of the split that each trial trains, one after another.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    base: str
    space: Space
    changes: Tree = Field(default_factory=dict)
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()
    budget: Budget = Budget()
    folds: int = Field(default=1, ge=1)
    phantom: Smaller = Smaller()

    @model_validator(mode="after")
    def _phantom_stays_in_the_space(self) -> StudyPlan:
        unknown = self.phantom.space.keys() - self.space.dimensions.keys()
        if unknown:
            raise ValueError(f"phantom.space names {sorted(unknown)}, which the space has not")
        return self

    def for_phantoms(self) -> StudyPlan:
        """The plan for the phantom set, under a name of its own."""
        small = self.phantom
        return self.model_copy(
            update={
                "name": f"{self.name}-phantom",
                "space": self.space.with_dimensions(small.space),
                "changes": merge(self.changes, small.changes),
                "budget": small.budget,
                "pruner": small.pruner or self.pruner,
            }
        )


@dataclass(frozen=True)
class StudyOptions:
    """What was typed; empty means not given."""

    data: str = ""
    storage: str = ""
    new: bool = False
    workers: int = 1
    multi_objective: bool = False
    overrides: tuple[str, ...] = ()


def parse(
    plan: StudyPlan, arguments: Sequence[str] | None = None
) -> tuple[StudyPlan, StudyOptions]:
    """The plan as the command line changes it, and how it is to be run.

    Raises:
        ConfigError: An argument is not valid.
    """
    typed = _parser(plan).parse_args(arguments)
    changed = plan if typed.data else plan.for_phantoms()
    budget: Tree = {}
    if typed.trials:
        budget["trials"] = whole_number("trials", typed.trials)
    for name in ("hours", "vram_gb"):
        text = getattr(typed, name)
        if text:
            budget[name] = _positive(name, text)
    changes: Tree = {"budget": changed.budget.model_copy(update=budget)}
    if typed.folds:
        changes["folds"] = whole_number("folds", typed.folds)
    options = StudyOptions(
        data=typed.data,
        storage=typed.storage,
        new=typed.new,
        workers=whole_number("workers", typed.workers or _default_workers(typed.data)),
        multi_objective=typed.multi_objective,
        overrides=tuple(typed.set),
    )
    return changed.model_copy(update=changes), options


def _parser(plan: StudyPlan) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=f"Study {plan.name}: search around experiments/{plan.base}.yaml.",
        epilog="The same command goes on with a study that was stopped or killed.",
    )
    add = parser.add_argument
    add("--data", default="", help="raw cases or a store; the phantom set if not given")
    add("--trials", default="", help="points tried in all, earlier sessions included")
    add("--hours", default="", help="after so long no new trial begins")
    add("--vram-gb", default="", help="device memory of one trial, e.g. 8")
    add("--workers", default="", help="trials at a time; 1, or 2 of phantoms")
    add("--storage", default="", help="postgresql://USER@HOST/DB; studies.db here if not given")
    add("--folds", default="", help="folds that each trial trains")
    add("--set", action="append", default=[], help="override of any setting, e.g. train.epochs=3")
    add("--multi-objective", action="store_true", help="Dice, epoch seconds and peak memory")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--resume", action="store_true", help="go on with the latest (the default)")
    which.add_argument("--new", action="store_true", help="start another study beside the earlier")
    return parser


def _default_workers(data: str) -> str:
    """One trial at a time; of small ones on phantoms two, since they cannot fill two cores."""
    return "1" if data else str(min(2, os.cpu_count() or 1))


def _positive(name: str, text: str) -> float:
    shown = f"--{name.replace('_', '-')}"
    try:
        value = float(text.lower().removesuffix("gb"))
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise ConfigError(f"{shown} must be a number above 0, received {text!r}")
    return value
