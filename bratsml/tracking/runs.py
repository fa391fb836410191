"""Reading recorded runs: what they hold and where their files are."""

from __future__ import annotations

import tempfile
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from bratsml.errors import TrackingError
from bratsml.files import read_json, read_table
from bratsml.tracking.delivery import models_of, translated
from bratsml.tracking.outbox import RefusedError, StoreAwayError
from bratsml.tracking.run_state import COMMAND, KEY, PARENT
from bratsml.tracking.store import ARTIFACTS_FOLDER, TrackingStore

if TYPE_CHECKING:
    from mlflow.entities import Run

ContentT = TypeVar("ContentT")

BEST = "best"
"""Name of the logged model that holds a run's best checkpoint."""
KEPT_PREFIX = "kept_"
"""How the names of logged models begin that hold further checkpoints of a run, by epoch."""
MODELS_CACHE = ".models"


@dataclass(frozen=True)
class RecordedRun:
    """A run as the store holds it.

    Attributes:
        key: What a child is known by (``fold_0``); ``""`` for a run without a parent.
        children: In order of their keys.
    """

    run_id: str
    name: str
    status: str
    experiment_id: str
    key: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    children: tuple[RecordedRun, ...] = ()


def find_run(run_id: str, root: Path | None = None) -> RecordedRun:
    """The run of that id.

    Raises:
        TrackingError: There is none, or the store cannot be used.
    """
    store = TrackingStore.locate(root)
    try:
        with translated():
            return _recorded(store, store.client.get_run(run_id))
    except RefusedError as error:
        raise TrackingError(
            f"run {run_id} is not in the tracking store; look it up in 'mlflow ui'"
        ) from error
    except StoreAwayError as error:
        raise TrackingError(f"the tracking store cannot be read: {error}; try again") from error


def latest_run(command: str, root: Path | None = None) -> RecordedRun:
    """The newest FINISHED run of a command.

    Raises:
        TrackingError: There is none.
    """
    store = TrackingStore.locate(root)
    experiment_id = store.experiment_id()
    try:
        with translated():
            found = store.client.search_runs(
                [experiment_id],
                f"attributes.status = 'FINISHED' and tags.`{COMMAND}` = '{command}'",
                order_by=["attributes.start_time DESC"],
                max_results=1,
            )
            if found:
                return _recorded(store, found[0])
    except (RefusedError, StoreAwayError) as error:
        raise TrackingError(f"the tracking store cannot be read: {error}; try again") from error
    raise TrackingError(f"no finished {command} run is in the tracking store; run {command} first")


def best_checkpoint(run: RecordedRun, root: Path | None = None) -> Path:
    """File of the best checkpoint a run logged; from a server it is fetched once and kept.

    Raises:
        TrackingError: The run logged none, or it cannot be read.
    """
    store = TrackingStore.locate(root)
    try:
        with translated():
            models = models_of(store, run.experiment_id, run.run_id, BEST)
            folder = _folder_of(store, models[0]) if models else None
    except (RefusedError, StoreAwayError) as error:
        raise TrackingError(
            f"the checkpoint of run {run.run_id} cannot be read: {error}; try again"
        ) from error
    files = sorted(folder.rglob("*.pt")) if folder else []
    if not files:
        raise TrackingError(
            f"run {run.run_id} ({run.name}) has no best checkpoint; finish it, or name another run"
        )
    return files[0]


def kept_checkpoints(run: RecordedRun, root: Path | None = None) -> list[Path]:
    """Files of the checkpoints that a run kept for a soup, in order of epochs; may be empty.

    Raises:
        TrackingError: The store cannot be read.
    """
    store = TrackingStore.locate(root)
    try:
        with translated():
            models = models_of(store, run.experiment_id, run.run_id)
            kept = sorted((m for m in models if m.name.startswith(KEPT_PREFIX)), key=_name_of)
            folders = [_folder_of(store, model) for model in kept]
    except (RefusedError, StoreAwayError) as error:
        raise TrackingError(
            f"the checkpoints of run {run.run_id} cannot be read: {error}; try again"
        ) from error
    return [path for folder in folders for path in sorted(folder.rglob("*.pt"))]


def read_json_artifact(run: RecordedRun, name: str, root: Path | None = None) -> Any:
    """The content of a JSON artifact.

    Raises:
        TrackingError: The run has no such artifact, or it is not JSON.
    """
    return read_artifact(run, name, root, read_json)


def read_table_artifact(run: RecordedRun, name: str, root: Path | None = None) -> pd.DataFrame:
    """The content of a CSV artifact.

    Raises:
        TrackingError: The run has no such artifact, or it is not a table.
    """
    return read_artifact(run, name, root, read_table)


def read_artifact(
    run: RecordedRun, name: str, root: Path | None, read: Callable[[Path], ContentT]
) -> ContentT:
    """What ``read`` makes of an artifact's file, which is gone afterwards.

    Raises:
        TrackingError: The run has no such artifact, or ``read`` raises :class:`ValueError`.
    """
    store = TrackingStore.locate(root)
    try:
        with translated(), tempfile.TemporaryDirectory() as folder:
            return read(Path(store.client.download_artifacts(run.run_id, name, folder)))
    except (RefusedError, StoreAwayError, OSError, ValueError) as error:
        raise TrackingError(
            f"run {run.run_id} ({run.name}) has no readable {name}; name another run"
        ) from error


def _recorded(store: TrackingStore, run: Run, *, with_children: bool = True) -> RecordedRun:
    children: list[RecordedRun] = []
    if with_children:
        found = store.client.search_runs(
            [run.info.experiment_id], f"tags.`{PARENT}` = '{run.info.run_id}'", max_results=1000
        )
        children = [_recorded(store, child, with_children=False) for child in found]
    return RecordedRun(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        status=run.info.status,
        experiment_id=run.info.experiment_id,
        key=run.data.tags.get(KEY, ""),
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        children=tuple(sorted(children, key=lambda child: _in_order(child.key))),
    )


def _in_order(key: str) -> tuple[str, int]:
    """``fold_10`` after ``fold_9``."""
    text = key.rstrip("0123456789")
    return text, int(key[len(text) :] or -1)


def _name_of(model: Any) -> str:
    return str(model.name)


def _folder_of(store: TrackingStore, model: Any) -> Path:
    location = urllib.parse.urlparse(model.artifact_location)
    if location.scheme in ("", "file"):
        return Path(urllib.parse.unquote(location.path))
    folder = store.root / ARTIFACTS_FOLDER / MODELS_CACHE / model.model_id
    if not folder.is_dir():
        from mlflow.artifacts import download_artifacts

        with tempfile.TemporaryDirectory(dir=_made(folder.parent)) as temporary:
            download_artifacts(
                artifact_uri=f"models:/{model.model_id}",
                dst_path=temporary,
                tracking_uri=store.uri,
            )
            Path(temporary).replace(folder)
            _made(Path(temporary))
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
