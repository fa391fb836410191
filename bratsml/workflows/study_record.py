"""What a study's processes need to know, as one JSON file beside its trials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from bratsml.config import Config, Tree, build_config, with_overrides
from bratsml.files import write_json
from bratsml.tuning.settings import Objective, PrunerConfig, SamplerConfig
from bratsml.tuning.space import Params, Space
from bratsml.tuning.storage import StudyStorage
from bratsml.tuning.study import SharedStudy
from bratsml.workflows.records import load_record

if TYPE_CHECKING:  # these bring torch; a worker, which reads the record too, stays small
    from bratsml.data.folds import Split
    from bratsml.experiment import Experiment

ORACLE = "bratsml.tuning.memory"
"""Module with ``check_budget`` and ``record_out_of_memory``."""
TRIAL_MODULE = "bratsml.workflows.study_trial"
OUTCOME_FILE = "outcome.json"


class StudyRecord(Config):
    """One study, resolved. The storage's address is not in it: it may hold a password.

    Attributes:
        name: In the storage.
        kind: Word for its trials in run names and keys: ``trial``, or ``rerun``.
        experiment: The base experiment's tree.
        folds: How many folds of the split each trial trains.
        vram_gb: Memory that a trial may take on the device; ``None`` for no limit.
        trials: How many at most.
        deadline: Unix time after which no new trial begins.
        oracle: Module that tells what fits; ``""`` for none.
        trial_module: Module that runs one trial.
        death_wait_seconds: Pause before a trial that died is started again.
    """

    name: str
    kind: str = "trial"
    root: str
    folder: str
    parent_run: str
    store: str
    split: Tree
    experiment: Tree
    space: Space
    objectives: tuple[Objective, ...] = ("dice",)
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()
    folds: int = Field(default=1, ge=1)
    vram_gb: float | None = None
    trials: int = Field(ge=1)
    deadline: float | None = None
    oracle: str = ORACLE
    trial_module: str = TRIAL_MODULE
    death_wait_seconds: float = 2.0

    @property
    def path(self) -> Path:
        """Where the record lies."""
        return Path(self.folder) / "study.json"

    def save(self) -> Path:
        """Write the record; returns its file."""
        write_json(self.path, self.tree())
        return self.path

    @classmethod
    def load(cls, path: Path) -> StudyRecord:
        """Read a record back."""
        return load_record(lambda **tree: build_config(cls, tree, source=path.name), path)

    @property
    def base(self) -> Experiment:
        """The experiment that the space changes."""
        from bratsml.experiment import Experiment

        return build_config(Experiment, self.experiment)

    @property
    def the_split(self) -> Split:
        """Folds and test cases; a study never opens the latter."""
        from bratsml.data.folds import Split

        return Split.from_tree(self.split)

    def open(self) -> SharedStudy:
        """The study in its storage."""
        return SharedStudy.load(
            StudyStorage.locate(Path(self.root)),
            self.name,
            self.space,
            self.pruner,
            num_steps=self.folds * int(self.experiment["train"]["epochs"]),
        )

    def experiment_of(self, params: Params) -> Experiment:
        """The experiment of a point, under the study's memory limit.

        Raises:
            ConfigError: The point is not valid.
        """
        experiment = self.space.apply(params, self.base)
        return within_memory(experiment, self.vram_gb)

    def trial_folder(self, number: int) -> Path:
        """Where a trial keeps its checkpoints, its log and its outcome."""
        return Path(self.folder) / f"{self.kind}_{number:03d}"

    def trial_key(self, number: int) -> str:
        """By which the trial's run is known under the study's run."""
        return f"{self.kind}_{number}"


def within_memory(experiment: Experiment, vram_gb: float | None) -> Experiment:
    """The experiment with the cap on GPU memory set, if the settings know one."""
    if vram_gb is None or "vram_gb" not in type(experiment.compute).model_fields:
        return experiment
    return with_overrides(experiment, {"compute": {"vram_gb": vram_gb}})


class TrialJob(Config):
    """The record of one trial's process."""

    study: str
    number: int
    params: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the record."""
        write_json(path, self.tree())

    @classmethod
    def load(cls, path: Path) -> TrialJob:
        """Read a record back."""
        return load_record(lambda **tree: build_config(cls, tree, source=path.name), path)
