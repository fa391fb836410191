"""From what the user typed to an experiment and a store that are ready to run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bratsml.compute.device import choose_device
from bratsml.config import (
    Tree,
    build_config,
    flatten,
    merge,
    parse_assignments,
    with_overrides,
)
from bratsml.data.extra import StoreWithExtra
from bratsml.data.phantom import PhantomConfig, write_phantoms
from bratsml.data.store import Store
from bratsml.errors import ConfigError, DataError, TrackingError
from bratsml.experiment import (
    Experiment,
    find_experiment_file,
    phantom_profile,
    read_experiment_tree,
)
from bratsml.models.swinunetr import SwinUNETRConfig
from bratsml.tracking.runs import RecordedRun, find_run
from bratsml.tracking.store import project_root
from bratsml.workflows.arguments import whole_number
from bratsml.workflows.console import say
from bratsml.workflows.preprocess import ensure_store
from bratsml.workflows.records import find_record

MADE_OF = ("soup.of", "prune.of")
"""Parameters of runs that train nothing: the runs whose networks they start from."""


@dataclass(frozen=True)
class Request:
    """The arguments that ``train`` and ``cv`` share, as typed; empty means not given."""

    model: str = ""
    experiment: str = ""
    data: str = ""
    epochs: str = ""
    overrides: Iterable[str] = ()
    fork: bool = False
    extra: str = ""


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
    return prepare_experiment(resolve_experiment(request, root, shorthands or {}), request.data)


def prepare_experiment(experiment: Experiment, data: str) -> Prepared:
    """Make or reuse the store of a resolved experiment.

    Args:
        data: Folder of cases or a store, or ``""`` for the phantom set.

    Raises:
        ConfigError: The machine lacks what the experiment asks for, or the extra data overlaps.
        DataError: The data cannot be used.
    """
    root = project_root()
    require_hardware(experiment)
    store = store_of(data or str(_phantom_folder(root)), experiment, root)
    changes: Tree = {"label_scheme": store.label_scheme}
    if experiment.data.extra:
        store = _beside_extra(store, experiment)
        changes["extra"] = str(store.extra.path)
    resolved = with_overrides(experiment, {"data": changes})
    return Prepared(root, resolved, store, is_phantom=not data)


def store_of(data: str, experiment: Experiment, root: Path) -> Store:
    """The store of that folder under the experiment's recipe, made now or kept from before."""
    wanted = experiment.data
    return ensure_store(
        Path(data),
        wanted.recipe,
        label_scheme=None if wanted.label_scheme == "auto" else wanted.label_scheme,
        allow_rejected=wanted.allow_rejected,
    )


def open_stores(path: Path, experiment: Experiment) -> Store:
    """The store of a prepared experiment, with its extra one.

    Raises:
        DataError: One of them is gone.
    """
    store = Store.open(path)
    extra = experiment.data.extra
    return StoreWithExtra(store, Store.open(Path(extra))) if extra else store


def _beside_extra(store: Store, experiment: Experiment) -> StoreWithExtra:
    wanted = experiment.data
    extra = ensure_store(Path(wanted.extra), wanted.recipe, allow_rejected=wanted.allow_rejected)
    say(f"{len(extra.case_ids)} extra cases are trained on in every fold, and only that")
    return StoreWithExtra(store, extra)


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
    path = _recorded_folder(source, root)
    if path is None:
        raise ConfigError(
            f"where the data of run {source.run_id} lies is no longer known; give data=FOLDER"
        )
    return Store.open(path)


def _recorded_folder(source: RecordedRun, root: Path) -> Path | None:
    """Where a run's folds read their cases, or those of the runs that its networks came from."""
    for record in sorted((root / "outputs").glob(f"*-{source.run_id[:8]}/fold_*/job.json")):
        path = Path(str(find_record(record).get("store", "")))
        if path.is_dir():
            return path
    for run_id in ",".join(source.params.get(name, "") for name in MADE_OF).split(","):
        if run_id in ("", "files"):
            continue
        with suppress(TrackingError):  # it may have been deleted since
            path_of_parent = _recorded_folder(find_run(run_id, root), root)
            if path_of_parent is not None:
                return path_of_parent
    return None


def resolve_experiment(request: Request, root: Path, shorthands: Mapping[str, Any]) -> Experiment:
    """The experiment that a request means: file, phantom profile, shorthands, ``--set``."""
    path = find_experiment_file(root, request.model, request.experiment)
    experiment = lay_over(path, typed_layers(request, shorthands), root, phantom=not request.data)
    if not request.data:
        say_phantom_profile(experiment.model.kind)
    return experiment


def say_phantom_profile(kinds: str) -> None:
    """Say that the phantom set stands in for data."""
    say(
        "no data given: the phantom set with its small profile "
        f"(experiments/phantom_profile.yaml, {kinds}); give data=FOLDER for real cases"
    )


def typed_layers(request: Request, shorthands: Mapping[str, Any]) -> list[Tree]:
    """The changes that were typed, each to be laid over those before it."""
    layers: list[Tree] = [dict(shorthands)]
    if request.epochs:
        layers.append({"train": {"epochs": whole_number("epochs", request.epochs)}})
    if request.extra:
        layers.append({"data": {"extra": request.extra}})
    return [*layers, *map(parse_assignments, request.overrides)]


def lay_over(path: Path, layers: Sequence[Tree], root: Path, *, phantom: bool) -> Experiment:
    """An experiment file with layers of changes over it.

    Where a layer switches a kind, what the file and earlier layers said of the other kind is left
    behind.

    Args:
        phantom: Lay what shrinks the resulting kind of model to the phantom set between the file
            and the changes.

    Raises:
        ConfigError: The result is not a valid experiment.
    """
    source = merge(_kinds_of(Experiment().tree()), read_experiment_tree(path))
    typed = _kinds_of(source)
    for layer in layers:
        typed = merge(typed, layer)
    # kinds that nobody typed served only to tell which settings belong together
    named = {name for layer in layers for name in flatten(layer)}
    typed = _nested({name: value for name, value in flatten(typed).items() if name in named})
    tree = merge(source, typed)
    if phantom:
        tree = merge(merge(tree, phantom_profile(root, tree["model"]["kind"])), typed)
    return build_config(Experiment, tree, source=path.name)


def _kinds_of(tree: Tree) -> Tree:
    kinds: Tree = {}
    for name, value in tree.items():
        if name == "kind":
            kinds[name] = value
        elif isinstance(value, dict) and (inner := _kinds_of(value)):
            kinds[name] = inner
    return kinds


def _nested(flat: Mapping[str, Any]) -> Tree:
    tree: Tree = {}
    for name, value in flat.items():
        *sections, leaf = name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = value
    return tree


def require_hardware(experiment: Experiment) -> None:
    """Refuse what this machine cannot train.

    Raises:
        ConfigError: Naming the device or the attention backend.
    """
    device = choose_device(experiment.compute)
    if isinstance(experiment.model, SwinUNETRConfig):
        experiment.model.check_device(device)


def _phantom_folder(root: Path) -> Path:
    folder = root / "data" / "phantom"
    write_phantoms(folder, PhantomConfig())
    return folder
