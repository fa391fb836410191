"""A study made ready: everything checked, the data prepared, the study in its storage."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from bratsml.data.extra import extra_of, split_of
from bratsml.data.folds import Split
from bratsml.errors import ConfigError
from bratsml.experiment import Experiment
from bratsml.tracking.store import project_root
from bratsml.tuning.settings import Objective
from bratsml.tuning.storage import STORAGE_VARIABLE, StudyStorage
from bratsml.tuning.study import SharedStudy
from bratsml.workflows.console import warn
from bratsml.workflows.request import Prepared, Request, prepare
from bratsml.workflows.start import Start
from bratsml.workflows.study_plan import ALL_OBJECTIVES, StudyOptions, StudyPlan
from bratsml.workflows.study_record import ORACLE, StudyRecord, within_memory
from bratsml.workflows.study_trial import Oracle, load_oracle


@dataclass(frozen=True)
class Search:
    """A study that is ready to run: checked, with its data, in its storage."""

    plan: StudyPlan
    options: StudyOptions
    prepared: Prepared
    split: Split
    storage: StudyStorage
    study: SharedStudy
    objectives: tuple[Objective, ...]

    @property
    def name(self) -> str:
        """Of the study in its storage."""
        return str(self.study.study.study_name)

    @property
    def folder(self) -> Path:
        """Where its trials work."""
        return self.prepared.root / "outputs" / f"study-{self.name}-{self.study.uid[:8]}"

    def record(self, parent_run: str) -> StudyRecord:
        """What workers need to know."""
        budget = self.plan.budget
        hours = budget.hours
        return StudyRecord(
            name=self.name,
            root=str(self.prepared.root),
            folder=str(self.folder),
            parent_run=parent_run,
            store=str(self.prepared.store.path),
            split=self.split.to_tree(),
            experiment=self.prepared.experiment.tree(),
            space=self.plan.space,
            objectives=self.objectives,
            sampler=self.plan.sampler,
            pruner=self.plan.pruner,
            folds=self.plan.folds,
            vram_gb=budget.vram_gb,
            trials=budget.trials,
            deadline=None if hours is None else time.time() + hours * 3600,
        )


def set_up(plan: StudyPlan, options: StudyOptions) -> Search:
    """Check everything that can be checked, prepare the data, make or find the study.

    Raises:
        BratsmlError: A setting, the space, the budget, the data or the storage is no good.
    """
    storage = StudyStorage.locate(project_root(), options.storage)
    request = Request(
        experiment=f"experiments/{plan.base}.yaml", data=options.data, overrides=options.overrides
    )
    prepared = prepare(request, plan.changes)
    experiment, store = prepared.experiment, prepared.store
    plan.space.check(experiment)
    default = plan.space.point_of(experiment)
    Start().require_weights(experiment.transfer)
    split = split_of(store, experiment.split)
    extra = extra_of(store)
    if plan.folds > len(split.folds):
        raise ConfigError(
            f"folds={plan.folds}, but the split has {len(split.folds)}; raise split.folds or lower "
            "--folds"
        )
    oracle = load_oracle(ORACLE)
    check_smallest(plan, experiment, oracle)
    objectives = ALL_OBJECTIVES if options.multi_objective else ALL_OBJECTIVES[:1]
    name = _name(plan, storage, options.new)
    identity = {
        "space": plan.space.tree()["dimensions"],
        "experiment": experiment.what_decides_the_result(),
        "dataset": store.dataset_hash,
        "split": split.hash,
        **({"extra": extra.dataset_hash} if extra else {}),
        "objectives": list(objectives),
        "folds": plan.folds,
        "vram_gb": plan.budget.vram_gb,
    }
    study = SharedStudy.create(storage, name, plan.space, objectives, identity, queue=[default])
    os.environ[STORAGE_VARIABLE] = storage.url
    return Search(plan, options, prepared, split, storage, study, objectives)


def check_smallest(plan: StudyPlan, experiment: Experiment, oracle: Oracle | None) -> None:
    """Refuse a memory budget below what even the thriftiest point of the space needs.

    Raises:
        ConfigError: With both numbers.
    """
    budget = plan.budget.vram_gb
    if oracle is None or budget is None:
        return
    point = plan.space.thriftiest()
    smallest = within_memory(plan.space.apply(point, experiment), budget)
    try:
        verdict = oracle.check_budget(smallest, budget)
    except Exception as error:  # the oracle is a help, not a condition
        warn(f"memory cannot be predicted ({error}); trials find out by themselves")
        return
    if not verdict.fits:
        shown = ", ".join(f"{name}={value}" for name, value in point.items())
        raise ConfigError(
            f"a budget of {budget:g} GB is below what any point of the space needs: even "
            f"{shown or 'the base'} does not fit ({verdict.reason}); raise --vram-gb or widen the "
            "space downwards"
        )


def _name(plan: StudyPlan, storage: StudyStorage, new: bool) -> str:
    """The study's name: the latest of its kind, or with ``new`` the next free one."""
    known = set(SharedStudy.names(storage))
    number, name = 1, plan.name
    latest = plan.name
    while name in known:
        latest = name
        number += 1
        name = f"{plan.name}-{number}"
    return name if new else latest
