"""The weights that a fine-tuning starts from: found, and checked against leaking patients.

The rule: no patient that the start weights were trained on, at any stage, may be validated on or
held out for test. Where that is on record it is enforced, otherwise it is said that it is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from bratsml.config import Tree, build_config
from bratsml.data.case_names import parse_case_id
from bratsml.data.extra import extra_of
from bratsml.data.folds import Split, SplitConfig, make_split
from bratsml.data.split import listed
from bratsml.data.store import Store
from bratsml.errors import BratsmlError, CheckpointError, ConfigError, TrackingError
from bratsml.files import sha256_of
from bratsml.tracking.runs import RecordedRun, best_checkpoint, find_run, read_json_artifact
from bratsml.tracking.tracker import Tracker
from bratsml.training.checkpoint import read_plain
from bratsml.training.sparsity import hold_zeros, prunable_weights
from bratsml.training.transfer import (
    TransferConfig,
    freeze,
    read_weights,
    require_frozen_loaded,
    start_from,
)
from bratsml.workflows.console import say

SEEN_FILE = "transfer/seen_before.json"
"""Artifact of a fine-tuning: the cases that its start weights were trained on."""
_RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class StartWeights:
    """One file to start from.

    Attributes:
        path: The file.
        sha256: Of the file.
        source: What it is called in messages and on the run: the id of a run, or the file's name.
        named: What the user named: the same, or the cross-validation that the run is a fold of.
        seen: Ids of the cases it is known to have been trained on.
        all_seen_known: Whether those are all.
    """

    path: str
    sha256: str
    source: str
    named: str
    seen: tuple[str, ...] = ()
    all_seen_known: bool = False

    def to_tree(self) -> Tree:
        """Plain data for the record of a fold."""
        return asdict(self)

    @classmethod
    def from_tree(cls, tree: Tree) -> StartWeights:
        """Read :meth:`to_tree` back."""
        return cls(**{**tree, "seen": tuple(tree["seen"])})

    def require_unchanged(self) -> None:
        """Refuse a file that is no longer what the run was begun with.

        Raises:
            CheckpointError: It is gone or has another content.
        """
        path = Path(self.path)
        if not path.is_file() or sha256_of(path) != self.sha256:
            raise CheckpointError(
                f"the start weights {path.name} are gone or were changed since this run was "
                "begun; put them back, or begin anew with --fork"
            )


def find_start_weights(
    checkpoint: str, folds: Sequence[int], store: Store, root: Path
) -> tuple[StartWeights, ...]:
    """What ``--checkpoint`` means, for each of those folds.

    Args:
        checkpoint: A file; the id of a run with a best checkpoint; or the id of a
            cross-validation, each of whose folds starts the fold of the same number.

    Raises:
        CheckpointError: Neither a file nor a run id.
        ConfigError: A cross-validation without one of the folds.
        TrackingError: No such run, or it is not finished.
    """
    if Path(checkpoint).is_file():
        return (_of_file(Path(checkpoint), store),) * len(folds)
    if not _RUN_ID.fullmatch(checkpoint):
        raise CheckpointError(
            f"checkpoint {Path(checkpoint).name} is neither a file nor the id of a run; check the "
            "name, or look the id up in 'mlflow ui'"
        )
    run = find_run(checkpoint, root)
    children = {child.key: child for child in run.children if child.key.startswith("fold_")}
    if not children:
        return (_of_run(run, run, root),) * len(folds)
    missing = [fold for fold in folds if f"fold_{fold}" not in children]
    if missing:
        raise ConfigError(
            f"run {checkpoint} has {len(children)} folds, none to start fold {missing[0]} from; "
            "use as many folds, or name the run of one of its folds"
        )
    return tuple(_of_run(children[f"fold_{fold}"], run, root) for fold in folds)


def require_unseen(start: StartWeights, store: Store, split: Split, fold: int) -> bool:
    """Refuse start weights that were trained on a patient who is validated on or held out.

    Returns:
        Whether it is known that there is no such patient; if not, the record is incomplete.

    Raises:
        ConfigError: Naming the patients.
    """
    seen = _patients_of(start.seen, store)
    for doing, cases in (
        (f"fold {fold} is validated", split.validation(fold)),
        ("the test split is scored", split.test),
    ):
        both = sorted(seen & _patients_of(cases, store))
        if both:
            raise ConfigError(
                f"the start weights ({start.source}) were trained on {listed(both)}, which "
                f"{doing} on, so the scores would be too good; start from the same fold of a cv "
                "run of this data with this split, or from other data"
            )
    return start.all_seen_known


def take_over(
    model: nn.Module, start: StartWeights, transfer: TransferConfig, tracker: Tracker
) -> None:
    """Put the start weights into a network and record what of them was taken, what is trained.

    Raises:
        CheckpointError: The file was changed, is damaged or fits another network.
        ConfigError: Something frozen would stay at random.
    """
    start.require_unchanged()
    report = start_from(model, read_weights(Path(start.path)), transfer, start.source)
    freeze(model, transfer)
    require_frozen_loaded(model, report)
    moving = {name for name, weight in model.named_parameters() if weight.requires_grad}
    table = report.rows.assign(trained=report.rows["key"].isin(moving))
    tracker.log_table(table, "transfer/weights")
    tracker.log_json({"cases": start.seen, "all": start.all_seen_known}, SEEN_FILE)
    tracker.log_params(
        {
            "transfer.source": start.source,
            "transfer.keys_taken": f"{report.share_of_keys:.4f}",
            "transfer.values_taken": f"{report.share_of_values:.4f}",
            "transfer.keys_reset": report.count("reset"),
        }
    )
    tracker.set_tags({"bratsml.patients_seen_before": _overlap(start)})
    say(
        f"{report.num_taken} of {len(model.state_dict())} keys taken from {start.source} "
        f"({report.share_of_values:.1%} of the values), {report.count('reset')} fresh; "
        f"{len(moving)} weights are trained"
    )


def keep_zeros(model: nn.Module, start: StartWeights) -> int:
    """Hold what is zero in the start weights at zero in training; returns how many weights.

    Raises:
        CheckpointError: The file was changed or is damaged.
        ConfigError: It does not have the layers of this network.
    """
    start.require_unchanged()
    weights = read_weights(Path(start.path))
    for name, weight in prunable_weights(model).items():
        if name not in weights or weights[name].shape != weight.shape:
            raise ConfigError(
                f"transfer.keep_zeros: {start.source} has no {name} of shape "
                f"{list(weight.shape)}, so its zeros cannot be held; start from a pruned network "
                "of this very kind"
            )
    return hold_zeros(model, weights)


def _overlap(start: StartWeights) -> str:
    return "none" if start.all_seen_known else "not known"


def _of_run(run: RecordedRun, named: RecordedRun, root: Path) -> StartWeights:
    if run.status != "FINISHED":
        raise TrackingError(f"run {run.run_id} ({run.name}) is not finished; finish it first")
    path = best_checkpoint(run, root)
    start = StartWeights(str(path), sha256_of(path), run.run_id, named.run_id)
    try:
        split = Split.from_tree(read_json_artifact(run, "split.json", root), "split.json")
        seen = {*split.training(int(run.params["fold"]))}
    except (BratsmlError, KeyError, ValueError):  # a soup of several folds, say
        return start
    known = True
    if run.params.get("transfer.start", "[]") not in ("[]", "()"):
        try:
            before = read_json_artifact(run, SEEN_FILE, root)
            seen |= {*before["cases"]}
            known = bool(before["all"])
        except TrackingError:  # a soup of fine-tuned networks, say
            known = False
    return replace(start, seen=tuple(sorted(seen)), all_seen_known=known)


def _of_file(path: Path, store: Store) -> StartWeights:
    """A file tells what it was trained on only when that is the data at hand."""
    start = StartWeights(str(path), sha256_of(path), path.name, path.name)
    content = read_plain(path)
    config: Any = content.get("config") if isinstance(content, dict) else None
    if not isinstance(config, dict) or "dataset_hash" not in config:
        return start
    extra = extra_of(store)
    ours = {store.dataset_hash: store, **({extra.dataset_hash: extra} if extra else {})}
    seen: set[str] = set()
    main = ours.get(config["dataset_hash"])
    more = ours.get(config.get("extra_hash", ""))
    if more is not None:
        seen |= {*more.case_ids}
    split = None if main is None else _split_again(config, main, more, path.name)
    if split is not None:
        seen |= {*split.training(int(config["fold"]))}
    all_known = (
        split is not None
        and config.get("extra_hash", store.dataset_hash) in ours
        and not config["experiment"].get("transfer", {}).get("start")
    )
    return replace(start, seen=tuple(sorted(seen)), all_seen_known=all_known)


def _split_again(config: Tree, main: Store, more: Store | None, name: str) -> Split | None:
    """The split that a checkpoint was trained on; ``None`` when it cannot be made again."""
    try:
        settings = build_config(SplitConfig, config["experiment"]["split"], name)
        split = make_split(main.metas(), settings)
    except ConfigError:  # its fold file is gone, say
        return None
    if more is not None:
        split = replace(split, training_only=(*split.training_only, *more.case_ids))
    elif "extra_hash" in config:
        return split  # the hash counts cases that are not at hand
    return split if split.hash == config.get("split_hash") else None


def _patients_of(case_ids: Iterable[str], store: Store) -> set[str]:
    """Patients of cases of the store, and of others as far as their ids tell."""
    known = {meta.id: meta.patient for meta in store.metas()}
    patients = set()
    for case_id in case_ids:
        name = parse_case_id(case_id)
        patients.add(known.get(case_id) or (name.patient if name else case_id))
    return patients
