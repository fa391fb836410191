"""The checkpoints that a soup is made of: found, grouped by fold, checked against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bratsml.config import Tree, build_config, flatten
from bratsml.data.folds import Split, make_split
from bratsml.data.store import Store
from bratsml.ensembling.soup import Ingredient, require_same_form
from bratsml.errors import CheckpointError, ConfigError, DataError
from bratsml.experiment import Experiment
from bratsml.files import sha256_of, sha256_of_json
from bratsml.tracking.runs import (
    RecordedRun,
    best_checkpoint,
    find_run,
    kept_checkpoints,
    read_json_artifact,
)
from bratsml.training.checkpoint import load_checkpoint
from bratsml.workflows.request import store_of, store_of_run
from bratsml.workflows.trained import Member, load_trained, members_of_files

MAY_DIFFER = ("dropout", "drop_", "attn_drop", "checkpointing", "attention")
"""Beginnings of settings of a model that leave open what its weights mean."""
ABOUT_CASES = ("fold", "split_hash", "dataset_hash", "extra_hash")
"""What the configuration in a checkpoint says of the cases that it was trained on."""


@dataclass(frozen=True)
class Parent:
    """A checkpoint that may go into a soup.

    Attributes:
        name: Shown to the user; unique within its group.
        run, run_name: Of the run that recorded it; ``""`` for a file.
        epoch: Of the weights, from 0; -1 when the checkpoint does not say.
        trained_score: In validation during training; NaN when the checkpoint does not say.
        config: What the checkpoint was trained with, and on which fold of which split.
    """

    name: str
    path: Path
    run: str
    run_name: str
    sha256: str
    epoch: int
    trained_score: float
    config: Tree
    experiment: Experiment

    @property
    def fold(self) -> int | None:
        """The fold that was left out of its training, if that is on record."""
        fold = self.config.get("fold")
        return fold if isinstance(fold, int) else None

    @property
    def trained_on(self) -> Tree:
        """What its configuration says of the cases that it saw, also before its own training."""
        start = self.config["experiment"].get("transfer", {}).get("start")
        return {**{name: self.config.get(name) for name in ABOUT_CASES}, "start": start or None}

    @property
    def split_hash(self) -> str:
        """Of the split its fold belongs to; ``""`` if that is not on record."""
        return str(self.config.get("split_hash", ""))

    def ingredient(self) -> Ingredient:
        """Its weights, those that validation used, read when they are needed."""
        return Ingredient(self.name, lambda: weights_of(self.path))


@dataclass(frozen=True)
class Group:
    """Checkpoints that become one soup.

    Attributes:
        key: ``fold_0``, or ``soup`` when they are not all of one fold.
    """

    key: str
    parents: tuple[Parent, ...]

    @property
    def title(self) -> str:
        """As it is shown."""
        return self.key.replace("_", " ")

    @property
    def trained_alike(self) -> bool:
        """Whether all were trained on the same cases, as far as is on record."""
        return len({sha256_of_json(parent.trained_on) for parent in self.parents}) == 1


@dataclass(frozen=True)
class Cases:
    """What a soup is scored on.

    Attributes:
        ids: Sorted.
        training: What every checkpoint may have been trained on, sorted.
        are_unseen: No checkpoint was trained on any of ``ids``.
        num_left_out: Validation cases of some checkpoint that another was trained on.
    """

    ids: tuple[str, ...]
    training: tuple[str, ...]
    are_unseen: bool
    num_left_out: int


@dataclass(frozen=True)
class Sources:
    """Where the checkpoints come from.

    Attributes:
        runs: As named by the user; empty for files.
    """

    runs: tuple[RecordedRun, ...]
    groups: tuple[Group, ...]
    splits: Mapping[str, Split]
    root: Path

    def store(self, data: str) -> Store:
        """The data that they were trained on.

        Raises:
            ConfigError: Where it lies is not known.
            DataError: It is not what they were trained on.
        """
        first = self.groups[0].parents[0]
        if self.runs:
            store = store_of_run(self.runs[0], data, first.experiment, self.root)
        elif data:
            store = store_of(data, first.experiment, self.root)
        else:
            raise ConfigError("checkpoint files do not say where their data lies; give data=FOLDER")
        for parent in (parent for group in self.groups for parent in group.parents):
            if parent.config.get("dataset_hash", store.dataset_hash) != store.dataset_hash:
                raise DataError(
                    "data",
                    "",
                    f"it is not what {parent.name} was trained on (another content hash)",
                    "give that data, or leave the checkpoint out",
                )
        return store

    def cases(self, group: Group, store: Store) -> Cases:
        """The validation cases that no checkpoint of the group was trained on.

        When there are none, those of any of its folds, which then are no longer unseen.

        Raises:
            ConfigError: The split of a checkpoint is not known.
        """
        folds = {(p.split_hash, p.fold): p for p in group.parents}
        held_out, trained_on = [], []
        for parent in folds.values():
            split = self.split_of(parent, store)
            assert parent.fold is not None  # the split is known by it
            held_out.append(set(split.validation(parent.fold)))
            trained_on.append(set(split.training(parent.fold)))
        unseen, any_fold = set.intersection(*held_out), set.union(*held_out)
        return Cases(
            ids=tuple(sorted(unseen or any_fold)),
            # extra data lies elsewhere
            training=tuple(sorted((set.union(*trained_on) - unseen) & set(store.case_ids))),
            are_unseen=bool(unseen),
            num_left_out=len(any_fold - unseen) if unseen else 0,
        )

    def split_of(self, parent: Parent, store: Store) -> Split:
        """From the run it was recorded with, or made again as its settings say."""
        split = self.splits.get(parent.split_hash)
        if split is None and parent.fold is not None:
            metas = [store.meta(case_id) for case_id in store.case_ids]
            split = make_split(metas, parent.experiment.split)
        if parent.fold is None or split is None or split.hash != parent.split_hash:
            raise ConfigError(
                f"which cases {parent.name} was trained on is not known; name its run instead"
            )
        return split


def weights_of(path: Path) -> dict[str, Tensor]:
    """The weights that validation used: the average, where training kept one."""
    state = load_checkpoint(path)
    weights: dict[str, Tensor] = state.get("ema") or state["model"]
    return weights


def from_runs(run_ids: Sequence[str], fold: int | None, root: Path) -> Sources:
    """The checkpoints that runs kept, one group per fold; studies and ``cv`` runs by their parts.

    Args:
        fold: Only this one; ``None`` for all.

    Raises:
        TrackingError: No such run, or one without a checkpoint.
        ConfigError: No such fold, too few checkpoints, or some that do not fit together.
    """
    runs = tuple(find_run(run_id, root) for run_id in dict.fromkeys(run_ids))
    leaves = [leaf for run in runs for leaf in _leaves(run, root)]
    parents: dict[int | None, list[Parent]] = {}
    splits: dict[str, Split] = {}
    for leaf in leaves:
        for member in _members(leaf, root):
            parent = read_parent(member, leaf.run_id, leaf.name)
            if fold is None or parent.fold == fold:
                parents.setdefault(parent.fold, []).append(parent)
                if parent.split_hash not in splits:
                    split = Split.from_tree(read_json_artifact(leaf, "split.json", root))
                    splits[split.hash] = split
    if not parents:
        raise ConfigError(f"no checkpoint of these runs is of fold {fold}; leave fold out")
    groups = [_group(f"fold_{k}", parents[k]) for k in sorted(parents, key=lambda k: k or 0)]
    return Sources(runs, tuple(groups), splits, root)


def from_files(paths: Sequence[str], root: Path) -> Sources:
    """Checkpoint files as one group.

    Raises:
        CheckpointError: A file is missing or damaged.
        ConfigError: Fewer than two, or some that do not fit together.
    """
    members = members_of_files(list(dict.fromkeys(paths)))
    names = [member.name for member in members]
    unique = [
        member
        if names.count(member.name) == 1
        else Member(f"{member.name} {number}", member.checkpoint)
        for number, member in enumerate(members, 1)
    ]
    parents = [read_parent(member) for member in unique]
    folds = {(parent.split_hash, parent.fold) for parent in parents}
    key = f"fold_{parents[0].fold}" if len(folds) == 1 else "soup"
    return Sources((), (_group(key, parents),), {}, root)


def read_parent(member: Member, run: str = "", run_name: str = "") -> Parent:
    """What a checkpoint says of itself.

    Raises:
        CheckpointError: It is damaged, or not one of ours.
    """
    state = load_checkpoint(member.checkpoint)
    best: Mapping[str, Any] = state.get("best") or {}
    config: Tree = state["config"]
    if "experiment" not in config:
        raise CheckpointError(f"{member.name} holds no experiment; use a checkpoint of ours")
    return Parent(
        name=member.name,
        path=member.checkpoint,
        run=run,
        run_name=run_name,
        sha256=sha256_of(member.checkpoint),
        epoch=int(best.get("epoch", -1)),
        trained_score=float(best.get("score", float("nan"))),
        config=config,
        experiment=build_config(Experiment, config["experiment"], member.name),
    )


def _leaves(run: RecordedRun, root: Path) -> list[RecordedRun]:
    """Runs that trained one network each."""
    finished = [child for child in run.children if child.status == "FINISHED"]
    if not finished:
        return [run]
    return [leaf for child in finished for leaf in _leaves(find_run(child.run_id, root), root)]


def _members(leaf: RecordedRun, root: Path) -> list[Member]:
    """What a run kept for a soup, which includes its best; else its best alone."""
    kept = kept_checkpoints(leaf, root)
    if not kept:
        return [Member("best", best_checkpoint(leaf, root))]
    return [Member(f"epoch {int(path.stem.split('_')[-1])}", path) for path in kept]


def _group(key: str, parents: Sequence[Parent]) -> Group:
    """Checkpoints under names of their own, checked against each other."""
    if len(parents) < 2:
        raise ConfigError(
            f"{key.replace('_', ' ')} has one checkpoint, and a soup needs two or more; train with "
            "train.keep_checkpoints=10, or name several runs"
        )
    named = _with_names_of_runs(parents)
    load_trained([Member(parent.name, parent.path) for parent in named])
    first = named[0]
    form = {name: value.to("meta") for name, value in weights_of(first.path).items()}
    for parent in named[1:]:
        require_same_form(form, weights_of(parent.path), first.name, parent.name)
        _require_same_model(first, parent)
    return Group(key, named)


def _with_names_of_runs(parents: Sequence[Parent]) -> tuple[Parent, ...]:
    """Say of which run a checkpoint is where there are several."""
    runs = {parent.run: parent.run_name for parent in parents}
    if len(runs) == 1:
        return tuple(parents)
    names = list(runs.values())
    called = {
        run: name if names.count(name) == 1 else f"{name} ({run[:6]})" for run, name in runs.items()
    }
    return tuple(replace(p, name=f"{called[p.run]}, {p.name}") for p in parents)


def _require_same_model(first: Parent, other: Parent) -> None:
    """Equal shapes are not enough: another norm or activation gives weights another meaning."""
    ours, theirs = (flatten(parent.experiment.model.tree()) for parent in (first, other))
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name) and not name.startswith(MAY_DIFFER):
            raise ConfigError(
                f"{other.name} is of another architecture than {first.name}: model.{name} is "
                f"{theirs.get(name)} in one and {ours.get(name)} in the other; leave one out"
            )
