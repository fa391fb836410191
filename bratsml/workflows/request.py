"""From what the user typed to an experiment and a store that are ready to run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bratsml.compute.device import choose_device
from bratsml.config import Tree, merge, parse_assignments, with_overrides
from bratsml.data.phantom import PhantomConfig, write_phantoms
from bratsml.data.store import Store
from bratsml.errors import ConfigError, DataError
from bratsml.experiment import (
    Experiment,
    find_experiment_file,
    load_experiment,
    phantom_profile,
    read_experiment_tree,
)
from bratsml.models.swinunetr import SwinUNETRConfig
from bratsml.tracking.runs import RecordedRun
from bratsml.tracking.store import project_root
from bratsml.workflows.arguments import whole_number
from bratsml.workflows.console import say
from bratsml.workflows.preprocess import ensure_store


@dataclass(frozen=True)
class Request:
    """The arguments that ``train`` and ``cv`` share, as typed; empty means not given."""

    model: str = ""
    experiment: str = ""
    data: str = ""
    epochs: str = ""
    overrides: Iterable[str] = ()
    fork: bool = False


@dataclass(frozen=True)
class Prepared:
    """An experiment whose data is preprocessed.

    Attributes:
        experiment: Resolved, with the store's label scheme filled in.
        is_phantom: Whether the data is the phantom set that a request without data gets.
    """

    root: Path
    experiment: Experiment
    store: Store
    is_phantom: bool


def prepare(request: Request, shorthands: Mapping[str, Any] | None = None) -> Prepared:
    """Resolve the experiment, then make or reuse its store.

    Every setting is checked before any work starts.

    Args:
        shorthands: Further changes from options such as ``--folds``; ``--set`` wins over them.

    Raises:
        ConfigError: A setting, file or combination is wrong.
        DataError: The data cannot be used.
    """
    root = project_root()
    experiment = resolve_experiment(request, root, shorthands or {})
    _require_hardware(experiment)
    is_phantom = not request.data
    data = _phantom_folder(root) if is_phantom else Path(request.data)
    store = store_of(str(data), experiment, root)
    resolved = with_overrides(experiment, {"data": {"label_scheme": store.label_scheme}})
    return Prepared(root, resolved, store, is_phantom)


def store_of(data: str, experiment: Experiment, root: Path) -> Store:
    """The store of that folder under the experiment's recipe, made now or kept from before."""
    wanted = experiment.data
    return ensure_store(
        Path(data),
        wanted.recipe,
        label_scheme=None if wanted.label_scheme == "auto" else wanted.label_scheme,
        allow_rejected=wanted.allow_rejected,
    )


def store_of_run(source: RecordedRun, data: str, experiment: Experiment, root: Path) -> Store:
    """The store that a recorded cross-validation was trained on.

    Args:
        data: The data of that run, or ``""`` for where it was then.

    Raises:
        ConfigError: Where the data lies is no longer known.
        DataError: The data is not what it was.
    """
    store = store_of(data, experiment, root) if data else _recorded_store(source, root)
    wanted = source.params.get("dataset.hash", "")
    if store.dataset_hash[: len(wanted)] != wanted:
        raise DataError(
            "data",
            "",
            "it is not what the cross-validation was trained on (another content hash)",
            "give the same folder, unchanged",
        )
    return store


def _recorded_store(source: RecordedRun, root: Path) -> Store:
    for record in sorted((root / "outputs").glob(f"*-{source.run_id[:8]}/fold_*/job.json")):
        path = Path(json.loads(record.read_text(encoding="utf-8"))["store"])
        if path.is_dir():
            return Store.open(path)
    raise ConfigError(
        f"where the data of run {source.run_id} lies is no longer known; give data=FOLDER"
    )


def resolve_experiment(request: Request, root: Path, shorthands: Mapping[str, Any]) -> Experiment:
    """The experiment that a request means: file, phantom profile, shorthands, ``--set``."""
    path = find_experiment_file(root, request.model, request.experiment)
    typed = _typed_changes(request, shorthands)
    profile: Tree = {}
    if not request.data:
        tree = merge(read_experiment_tree(path), typed)
        kind = tree.get("model", {}).get("kind", "unet")
        profile = phantom_profile(root, kind)
        say(
            "no data given: the phantom set with its small profile "
            f"(experiments/phantom_profile.yaml, {kind}); give data=FOLDER for real cases"
        )
    return load_experiment(path, profile, typed)


def _typed_changes(request: Request, shorthands: Mapping[str, Any]) -> Tree:
    changes: Tree = dict(shorthands)
    if request.epochs:
        epochs = whole_number("epochs", request.epochs)
        changes = merge(changes, {"train": {"epochs": epochs}})
    for text in request.overrides:
        changes = merge(changes, parse_assignments(text))
    return changes


def _require_hardware(experiment: Experiment) -> None:
    device = choose_device(experiment.compute)
    if isinstance(experiment.model, SwinUNETRConfig):
        experiment.model.check_device(device)


def _phantom_folder(root: Path) -> Path:
    folder = root / "data" / "phantom"
    write_phantoms(folder, PhantomConfig())
    return folder
