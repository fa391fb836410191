"""Recorded runs read back: found by id or by command, with their folds and files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bratsml.errors import TrackingError
from bratsml.tracking.run_state import COMMAND, PARENT
from bratsml.tracking.store import EXPERIMENT_NAME, TrackingStore, first_line

if TYPE_CHECKING:
    from mlflow.entities import Run

SHORTEST_ID = 6
"""Characters of a run id that are enough to name a run."""


@dataclass(frozen=True)
class RecordedRun:
    """One run as the store has it.

    Attributes:
        children: Its nested runs by name, e.g. the folds of a cross-validation.
    """

    run_id: str
    name: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    children: tuple[RecordedRun, ...] = ()


def find_run(run_id: str, root: Path | None = None) -> RecordedRun:
    """The run whose id is, or begins with, ``run_id``.

    Raises:
        TrackingError: There is none, or several.
    """
    store = TrackingStore.locate(root)
    if len(run_id) < SHORTEST_ID:
        raise TrackingError(
            f"run id {run_id!r} is too short; give at least {SHORTEST_ID} characters"
        )
    found = [run for run in _all_runs(store) if run.info.run_id.startswith(run_id)]
    if len(found) != 1:
        count = "no run" if not found else "more than one run"
        raise TrackingError(f"{count} has an id starting with {run_id!r}; copy it from mlflow ui")
    return _recorded(found[0], store)


def latest_run(command: str, root: Path | None = None) -> RecordedRun:
    """The newest finished run of a command.

    Raises:
        TrackingError: None has finished yet.
    """
    store = TrackingStore.locate(root)
    for run in _all_runs(store):
        if run.data.tags.get(COMMAND) == command and run.info.status == "FINISHED":
            return _recorded(run, store)
    raise TrackingError(f"no finished {command} run is recorded here; run {command} first")


def read_json_artifact(run: RecordedRun, name: str, root: Path | None = None) -> Any:
    """Content of a JSON artifact of a run.

    Raises:
        TrackingError: The run has no such artifact.
    """
    import json

    return json.loads(_download(f"runs:/{run.run_id}/{name}", name, root).read_text("utf-8"))


def best_checkpoint(run: RecordedRun, root: Path | None = None) -> Path:
    """A local file with the run's best checkpoint.

    Raises:
        TrackingError: The run has logged none.
    """
    store = TrackingStore.locate(root)
    models = store.client.search_logged_models(
        [store.experiment_id(EXPERIMENT_NAME)], f"source_run_id = '{run.run_id}'"
    )
    if not models:
        raise TrackingError(
            f"run {run.run_id} ({run.name}) holds no checkpoint; train it to its end"
        )
    newest = max(models, key=lambda model: model.creation_timestamp)
    folder = _download(newest.model_uri, "checkpoint", root)
    files = sorted(folder.rglob("*.pt"))
    if not files:
        raise TrackingError(f"the checkpoint of run {run.run_id} is not in the store any more")
    return files[0]


def _all_runs(store: TrackingStore) -> list[Run]:
    return list(
        store.client.search_runs(
            [store.experiment_id(EXPERIMENT_NAME)],
            order_by=["attributes.start_time DESC"],
            max_results=50_000,
        )
    )


def _recorded(run: Run, store: TrackingStore) -> RecordedRun:
    children = [
        _plain(child, ())
        for child in _all_runs(store)
        if child.data.tags.get(PARENT) == run.info.run_id
    ]
    return _plain(run, tuple(sorted(children, key=lambda child: child.name)))


def _plain(run: Run, children: tuple[RecordedRun, ...]) -> RecordedRun:
    return RecordedRun(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        status=run.info.status,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        children=children,
    )


def _download(uri: str, name: str, root: Path | None) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    store = TrackingStore.locate(root)
    try:
        return Path(download_artifacts(artifact_uri=uri, tracking_uri=store.uri))
    except (MlflowException, OSError) as error:
        raise TrackingError(f"{name} cannot be read from the store: {first_line(error)}") from error
