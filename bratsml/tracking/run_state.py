"""Which runs are alive, which were orphaned, and which unfinished run a request continues.

A run whose process died of SIGKILL or a power cut stays RUNNING in MLflow for ever. Each run
therefore carries the process that works on it, and the next start marks the dead ones KILLED.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from bratsml.files import read_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

FINGERPRINT = "bratsml.fingerprint"
COMMAND = "bratsml.command"
KEY = "bratsml.key"
SUPERSEDED_BY = "bratsml.superseded_by"
"""On a run that ``mlflow run`` made for a request which an older run went on with."""
PARENT = "mlflow.parentRunId"
PID, STARTED, HOST, BOOT = "bratsml.pid", "bratsml.started", "bratsml.host", "bratsml.boot"
UNFINISHED = ("RUNNING", "KILLED", "FAILED", "SCHEDULED")
SILENCE_SECONDS = 30 * 60.0
"""A run of another machine counts as orphaned once no metric came for that long; the system metrics
of a living run come every few seconds, and an outage of the store is rarely longer."""
SUPERSEDED_SECONDS = 600.0
"""How long a superseded run is kept whose ``mlflow run`` cannot be seen from here."""
HEARTBEAT = "system/cpu_utilization_percentage"


def process_tags() -> dict[str, str]:
    """Tags that name the process working on a run; the machine as a hash, never by its name."""
    return {
        PID: str(os.getpid()),
        STARTED: str(round(psutil.Process().create_time())),
        HOST: this_host(),
        BOOT: this_boot(),
    }


@lru_cache(maxsize=1)
def this_host() -> str:
    """A short hash that stays the same on this machine (or in this container)."""
    text = socket.gethostname()
    with contextlib.suppress(OSError):
        text += read_text(Path("/etc/machine-id"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@lru_cache(maxsize=1)
def this_boot() -> str:
    """A short hash that changes when the machine starts anew."""
    try:
        text = read_text(Path("/proc/sys/kernel/random/boot_id"))
    except OSError:
        text = str(round(psutil.boot_time(), -1))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_process_alive(tags: dict[str, str]) -> bool:
    """Whether the process named by the tags of a run of this host still works."""
    if tags.get(BOOT) != this_boot():
        return False
    try:
        process = psutil.Process(int(tags[PID]))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        # process ids are given again: the start time tells the old owner from a new one
        return abs(process.create_time() - float(tags[STARTED])) <= 2.0
    except (KeyError, ValueError, psutil.Error):
        return False


def is_orphan(client: MlflowClient, run: Run) -> bool:
    """Whether a RUNNING run of ours has nobody working on it."""
    tags = run.data.tags
    if PID not in tags:
        return False
    if tags.get(HOST) == this_host():
        return not is_process_alive(tags)
    beats = client.get_metric_history(run.info.run_id, HEARTBEAT)
    last = max((beat.timestamp for beat in beats), default=run.info.start_time)
    return time.time() - last / 1000 > SILENCE_SECONDS


def mark_orphans(client: MlflowClient, experiment_id: str) -> list[str]:
    """Mark every orphaned run of an experiment KILLED; returns their ids."""
    running = client.search_runs([experiment_id], "attributes.status = 'RUNNING'", max_results=1000)
    orphans = [run.info.run_id for run in running if is_orphan(client, run)]
    for run_id in orphans:
        client.set_terminated(run_id, "KILLED")
    return orphans


def supersede(client: MlflowClient, run_id: str, by: str) -> None:
    """Close a run that turned out not to be needed.

    It is deleted later (:func:`delete_superseded`): ``mlflow run`` still writes to it at its end,
    and fails with a traceback when it is gone.
    """
    client.set_tag(run_id, SUPERSEDED_BY, by)
    client.set_terminated(run_id, "FINISHED")


def delete_superseded(client: MlflowClient, experiment_id: str) -> None:
    """Delete superseded runs that the ``mlflow run`` which made them has left."""
    for run in client.search_runs([experiment_id], f"tags.`{SUPERSEDED_BY}` LIKE '%'"):
        tags, ended = run.data.tags, run.info.end_time or 0
        if PID in tags and tags.get(HOST) == this_host():
            in_use = is_process_alive(tags)
        else:
            in_use = time.time() - ended / 1000 < SUPERSEDED_SECONDS
        if not in_use:
            client.delete_run(run.info.run_id)


def runs_of(client: MlflowClient, experiment_id: str, fingerprint: str) -> list[Run]:
    """Runs of one fingerprint that are not deleted, newest first."""
    return list(
        client.search_runs(
            [experiment_id],
            f"tags.`{FINGERPRINT}` = '{fingerprint}'",
            order_by=["attributes.start_time DESC"],
        )
    )


def child_of(client: MlflowClient, experiment_id: str, parent: str, key: str) -> Run | None:
    """The newest child run known by ``key``, or ``None``."""
    found = client.search_runs(
        [experiment_id],
        f"tags.`{PARENT}` = '{parent}' and tags.`{KEY}` = '{key}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return found[0] if found else None
