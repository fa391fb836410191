"""How a run is opened, continued and found again in MLflow.

A request is known by its fingerprint. While no run of it is finished, every start of the same
request goes on in the same run; ``mlflow run`` brings a run of its own, which is used when there is
nothing to go on with and removed otherwise.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bratsml.errors import TrackingError
from bratsml.tracking.delivery import RunDelivery, RunIdentity, translated
from bratsml.tracking.mlflow_run import RAW_PARAMS, MlflowTracker
from bratsml.tracking.outbox import Outbox, RefusedError, StoreAwayError
from bratsml.tracking.run_state import (
    COMMAND,
    FINGERPRINT,
    HOST,
    PARENT,
    PID,
    UNFINISHED,
    delete_superseded,
    is_process_alive,
    mark_orphans,
    runs_of,
    supersede,
    this_host,
)
from bratsml.tracking.spool import Spool
from bratsml.tracking.store import PROJECT_NAME, TrackingStore

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["MlflowTracker", "attach_run", "deliver_leftovers", "find_finished_run", "open_run"]

logger = logging.getLogger("bratsml.tracking")

RUN_VARIABLE = "MLFLOW_RUN_ID"
"""Where ``mlflow run`` names the run it has made for us."""


def open_run(
    *,
    command: str,
    experiment_name: str,
    run_name: str,
    fingerprint: str,
    root: Path | None = None,
    fork: bool = False,
    parent: str = "",
) -> MlflowTracker:
    """Open the run of a request: go on with an unfinished one, or start one.

    Under ``mlflow run`` a new run is the one MLflow made, in the experiment MLflow chose. Orphaned
    runs of the experiment are marked KILLED, and what an earlier process could not deliver is.

    Args:
        command: What the run does, e.g. ``cv``; runs are listed by it.
        experiment_name: MLflow experiment, made when missing.
        run_name: Shown in MLflow.
        fingerprint: Equal for equal requests; ``""`` never goes on with an earlier run.
        root: Project folder; found from the working folder if not given.
        fork: Start a new run although an unfinished one is there.
        parent: Id of a run that this one is shown under, in whose experiment it is then.

    Raises:
        TrackingError: The store cannot be used, or a living process works on this request.
    """
    store = TrackingStore.locate(root)
    experiment_id = store.experiment_id(experiment_name)
    try:
        with translated():
            given = _take_given_run(store)
            if given is not None:
                experiment_id = given.info.experiment_id
            if parent:
                experiment_id = store.client.get_run(parent).info.experiment_id
            mark_orphans(store.client, experiment_id)
            delete_superseded(store.client, experiment_id)
            deliver_leftovers(store)
            older = None if fork else _unfinished_run(store, experiment_id, fingerprint)
            if older is not None and given is not None:
                supersede(store.client, given.info.run_id, by=older.info.run_id)
            run = older or given or _create(store, experiment_id, run_name)
            if run is given:
                _make_ours(store, run, run_name)
    except (StoreAwayError, RefusedError) as error:
        raise TrackingError(f"the tracking store cannot open a run: {error}; try again") from error
    tracker = MlflowTracker(store, RunIdentity(run_id=run.info.run_id))
    tags = {PARENT: parent} if parent else {}
    tags |= {
        COMMAND: command,
        FINGERPRINT: fingerprint,
        "mlflow.source.name": f"{PROJECT_NAME} {command}",
    }
    tracker.open(tags, reopen_finished=True)
    tracker.is_continued = older is not None
    return tracker


def attach_run(run_id: str, root: Path | None = None) -> MlflowTracker:
    """A tracker for a run that another process has opened and will finish.

    For jobs that record in it or open children under it; the store is not asked, so that it may be
    away just now.
    """
    return MlflowTracker(TrackingStore.locate(root), RunIdentity(run_id=run_id))


def find_finished_run(fingerprint: str, root: Path | None = None) -> str | None:
    """Id of the newest FINISHED run of a request, or ``None``.

    The run that ``mlflow run`` made for the request, if it did, is closed and later deleted.

    Raises:
        TrackingError: The store cannot be used.
    """
    store = TrackingStore.locate(root)
    experiment_id = store.experiment_id()
    try:
        with translated():
            given = os.environ.get(RUN_VARIABLE)
            if given:
                experiment_id = store.client.get_run(given).info.experiment_id
            for run in runs_of(store.client, experiment_id, fingerprint):
                if run.info.status == "FINISHED":
                    if (made := _take_given_run(store)) is not None:
                        supersede(store.client, made.info.run_id, by=run.info.run_id)
                    return str(run.info.run_id)
    except (StoreAwayError, RefusedError) as error:
        raise TrackingError(f"the tracking store cannot be searched: {error}; try again") from error
    return None


def deliver_leftovers(store: TrackingStore) -> None:
    """Deliver what dead processes left in the spool; what still cannot be delivered stays."""
    if not store.spool.is_dir():
        return
    from filelock import FileLock, Timeout

    try:
        with FileLock(store.spool / ".lock", timeout=0):
            for folder in sorted(path for path in store.spool.iterdir() if path.is_dir()):
                _deliver_folder(store, folder)
    except Timeout:
        return  # another process is doing it
    except StoreAwayError as error:
        logger.warning("what waits in mlruns/.spool cannot be delivered yet (%s)", error)


def _deliver_folder(store: TrackingStore, folder: Path) -> None:
    spool = Spool(folder)
    if not len(spool):
        return
    entry = spool.first()
    owner = entry.get("process", {})
    if owner.get(HOST) == this_host() and is_process_alive(owner):
        return
    delivery = RunDelivery(store, RunIdentity(**entry["run"]))
    num_entries = len(spool)
    Outbox(delivery.deliver, spool, delivery.is_store_there).drain_here()
    logger.warning("%d entries that were waiting in mlruns/.spool are delivered", num_entries)


def _take_given_run(store: TrackingStore) -> Run | None:
    """The run ``mlflow run`` made, once: processes started from here must not take it too."""
    run_id = os.environ.pop(RUN_VARIABLE, "")
    return store.client.get_run(run_id) if run_id else None


def _unfinished_run(store: TrackingStore, experiment_id: str, fingerprint: str) -> Run | None:
    """The newest run of a request when it is not finished.

    Raises:
        TrackingError: Somebody works on it.
    """
    runs = runs_of(store.client, experiment_id, fingerprint) if fingerprint else []
    if not runs or runs[0].info.status not in UNFINISHED:
        return None
    run = runs[0]
    tags = run.data.tags
    ours = tags.get(PID) == str(os.getpid())
    if run.info.status == "RUNNING" and not ours:
        where = (
            f"process {tags.get(PID)}" if tags.get(HOST) == this_host() else "on another machine"
        )
        raise TrackingError(
            f"the same work is being done already ({where}, run {run.info.run_id}); wait for it, "
            "stop it, or start a second run with --fork"
        )
    return run


def _create(store: TrackingStore, experiment_id: str, run_name: str) -> Run:
    tags = {"mlflow.source.type": "LOCAL"}
    return store.client.create_run(experiment_id, tags=tags, run_name=run_name)


def _make_ours(store: TrackingStore, run: Run, run_name: str) -> None:
    """Name the run MLflow made, and take out what MLflow records of user and folders."""
    client, run_id = store.client, run.info.run_id
    client.update_run(run_id, name=run_name)
    client.set_tag(run_id, RAW_PARAMS, json.dumps(sorted(run.data.params)))
    if "mlflow.user" in run.data.tags:
        client.delete_tag(run_id, "mlflow.user")
