"""Trained networks found again: by run, by cross-validation, or by checkpoint file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from bratsml.compute.device import autocast_of, choose_device
from bratsml.config import build_config, flatten, merge
from bratsml.errors import CheckpointError, ConfigError
from bratsml.evaluation.whole_cases import Predictor
from bratsml.experiment import Experiment
from bratsml.files import read_yaml_file
from bratsml.labels import LabelScheme, get_scheme
from bratsml.models.output import Output
from bratsml.tracking.runs import best_checkpoint, find_run
from bratsml.training.checkpoint import load_checkpoint

POSTPROCESS_FILE = "postprocess.yaml"


@dataclass(frozen=True)
class Member:
    """One trained network of an ensemble (of one, perhaps).

    Attributes:
        name: Shown to the user, e.g. ``fold 2``.
        checkpoint: File with its weights.
    """

    name: str
    checkpoint: Path


@dataclass(frozen=True)
class TrainedModels:
    """Networks that read and predict the same: same recipe, labels, regions and outputs."""

    members: tuple[Member, ...]
    experiment: Experiment
    scheme: LabelScheme
    output: Output

    def predictors(self) -> Iterator[tuple[Member, Predictor]]:
        """Each network in turn, on the device; only one is in memory at a time."""
        device = choose_device(self.experiment.compute)
        for member in self.members:
            state = load_checkpoint(member.checkpoint)
            experiment = _experiment_of(state, member)
            model = experiment.build_model(self.output.num_channels)
            model.load_state_dict(state["ema"] or state["model"])
            yield (
                member,
                Predictor(
                    model.to(device),
                    self.output,
                    experiment.window,
                    experiment.inference,
                    partial(autocast_of, experiment.compute, device),
                    experiment.data.modalities,
                ),
            )

    def postprocessed(self, path: str) -> TrainedModels:
        """The same networks with the post-processing of a file; unchanged without one.

        Raises:
            ConfigError: The file is missing or holds something else.
        """
        return replace(self, experiment=_with_postprocess(self.experiment, path)) if path else self

    def probabilities(self, image: Tensor) -> Iterator[Tensor]:
        """Each network's probabilities ``(C, X, Y, Z)`` for one preprocessed image."""
        for _, predictor in self.predictors():
            yield predictor.stored_grid(image.numpy())


def load_trained(members: Sequence[Member]) -> TrainedModels:
    """Check that the members fit each other.

    Raises:
        CheckpointError: A file is damaged or holds no experiment.
        ConfigError: Two members differ in recipe, labels or outputs; says how.
    """
    first: Experiment | None = None
    for member in members:
        experiment = _experiment_of(load_checkpoint(member.checkpoint), member)
        if first is None:
            first = experiment
            continue
        ours, theirs = _what_must_agree(first), _what_must_agree(experiment)
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                raise ConfigError(
                    f"{members[0].name} and {member.name} cannot be averaged: {name} is "
                    f"{ours.get(name)} in one and {theirs.get(name)} in the other"
                )
    if first is None:
        raise ConfigError("no trained network was named; give a run or a checkpoint")
    scheme = get_scheme(first.data.label_scheme)
    return TrainedModels(tuple(members), first, scheme, first.output.build(scheme))


def members_of_runs(run_ids: Sequence[str], root: Path) -> list[Member]:
    """The best checkpoint of each run; a cross-validation stands for its folds.

    Raises:
        TrackingError: No such run, or it holds no checkpoint.
    """
    members = []
    for run_id in run_ids:
        run = find_run(run_id, root)
        sources = [child for child in run.children if child.status == "FINISHED"] or [run]
        for source in sources:
            members.append(Member(source.name, best_checkpoint(source, root)))
    return members


def members_of_files(paths: Sequence[str]) -> list[Member]:
    """Checkpoint files as members.

    Raises:
        CheckpointError: A file is not there.
    """
    for path in paths:
        if not Path(path).is_file():
            raise CheckpointError(f"checkpoint {path} is not there; check the name")
    return [Member(Path(path).stem, Path(path)) for path in paths]


def _experiment_of(state: dict[str, object], member: Member) -> Experiment:
    config = state.get("config")
    if not isinstance(config, dict) or "experiment" not in config:
        raise CheckpointError(f"{member.name}: the checkpoint holds no experiment; use one of ours")
    return build_config(Experiment, config["experiment"], source=member.name)


def _what_must_agree(experiment: Experiment) -> dict[str, object]:
    data = experiment.data.tree()
    del data["modalities"]  # each network picks its own
    return flatten({"data": data, "output": experiment.output.tree()})


def _with_postprocess(experiment: Experiment, path: str) -> Experiment:
    """The experiment with the post-processing of a file."""
    file = Path(path)
    try:
        content = read_yaml_file(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file.name} cannot be read; give a {POSTPROCESS_FILE}") from error
    if not isinstance(content, dict) or set(content) != {"postprocess"}:
        raise ConfigError(f"{file.name} holds no post-processing; give a {POSTPROCESS_FILE}")
    return build_config(Experiment, merge(experiment.tree(), content), file.name)
