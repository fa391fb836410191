"""Which run a start works in. Dead and living processes are told apart by their tags."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bratsml.errors import TrackingError
from bratsml.tracking import run_state
from bratsml.tracking.mlflow_tracker import MlflowTracker, find_finished_run, open_run
from bratsml.tracking.run_state import BOOT, HOST, PID, STARTED, process_tags
from bratsml.tracking.store import TrackingStore

fingerprints = (f"request {number}" for number in itertools.count())
EXPERIMENT = "1"


@pytest.fixture
def store(shared_project: Path) -> TrackingStore:
    return TrackingStore.locate(shared_project)


@pytest.fixture
def fingerprint() -> str:
    return next(fingerprints)


def start(fingerprint: str, **options: Any) -> MlflowTracker:
    return open_run(
        command="cv",
        experiment_name="bratsml",
        run_name="cv unet",
        fingerprint=fingerprint,
        **options,
    )


def status(store: TrackingStore, run_id: str) -> str:
    return str(store.client.get_run(run_id).info.status)


def abandon(tracker: MlflowTracker, **tags: str) -> str:
    """Leave a run RUNNING as a process killed by SIGKILL does."""
    assert tracker._system is not None
    tracker._system.stop()
    for name, value in {PID: "999999999", **tags}.items():
        tracker.store.client.set_tag(tracker.run_id, name, value)
    return tracker.run_id


def test_a_fresh_run(store: TrackingStore, fingerprint: str) -> None:
    tracker = start(fingerprint)
    run = store.client.get_run(tracker.run_id)
    tracker.finish("FINISHED")
    assert (tracker.last_step, tracker.is_continued) == (-1, False)
    assert (run.info.status, run.info.run_name) == ("RUNNING", "cv unet")
    assert run.data.tags["bratsml.command"] == "cv"
    assert run.data.tags["mlflow.source.name"] == "bratsml cv"


@pytest.mark.parametrize("end", ["KILLED", "FAILED"])
def test_an_unfinished_run_is_continued(store: TrackingStore, fingerprint: str, end: Any) -> None:
    first = start(fingerprint)
    first.finish(end)
    second = start(fingerprint)
    assert second.run_id == first.run_id
    assert status(store, second.run_id) == "RUNNING"
    assert find_finished_run(fingerprint) is None
    second.finish("FINISHED")
    assert find_finished_run(fingerprint) == first.run_id


def test_another_request_gets_another_run(store: TrackingStore, fingerprint: str) -> None:
    first = start(fingerprint)
    first.finish("KILLED")
    other = start(next(fingerprints))
    other.finish("FINISHED")
    assert other.run_id != first.run_id


def test_fork_and_an_empty_fingerprint_start_anew(store: TrackingStore, fingerprint: str) -> None:
    first = start(fingerprint)
    first.finish("KILLED")
    for again in (start(fingerprint, fork=True), start(""), start("")):
        again.finish("KILLED")
        assert again.run_id != first.run_id


@pytest.mark.parametrize(
    "left",
    [
        {},  # the process id is free
        {PID: str(os.getpid()), STARTED: "1"},  # ... or given to another process since
        {PID: str(os.getpid()), BOOT: "earlier"},  # ... or from before the machine started anew
    ],
)
def test_a_run_left_by_a_dead_process_is_marked_killed(
    store: TrackingStore, fingerprint: str, left: dict[str, str]
) -> None:
    orphan = abandon(start(fingerprint), **left)
    start(next(fingerprints)).finish("FINISHED")
    assert status(store, orphan) == "KILLED"


def test_an_orphan_is_continued_with_its_children(store: TrackingStore, fingerprint: str) -> None:
    parent = start(fingerprint)
    child = abandon(parent.child("fold 0", key="fold_0"))
    abandon(parent)
    again = start(fingerprint)
    assert again.run_id == parent.run_id
    assert status(store, child) == "KILLED"
    fold = again.child("fold 0", key="fold_0")
    assert (fold.run_id, status(store, child)) == (child, "RUNNING")
    fold.finish("FINISHED")
    again.finish("FINISHED")


def test_a_living_run_of_the_same_request_is_not_joined(
    store: TrackingStore, fingerprint: str
) -> None:
    tracker = start(fingerprint)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        started = str(round(time.time()))
        tags = {PID: str(other.pid), STARTED: started}
        run_id = abandon(tracker, **tags)
        with pytest.raises(TrackingError, match=f"done already .process {other.pid}, run {run_id}"):
            start(fingerprint)
        assert status(store, run_id) == "RUNNING"
    finally:
        other.kill()
        other.wait()
    start(fingerprint).finish("FINISHED")


def test_a_run_of_another_machine_is_left_alone_until_it_falls_silent(
    store: TrackingStore, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = abandon(start(fingerprint), **{HOST: "elsewhere"})
    with pytest.raises(TrackingError, match="on another machine"):
        start(fingerprint)
    monkeypatch.setattr(run_state, "SILENCE_SECONDS", -1.0)
    again = start(fingerprint)
    again.finish("FINISHED")
    assert again.run_id == run_id


def test_runs_of_other_tools_are_left_alone(store: TrackingStore) -> None:
    foreign = store.client.create_run(EXPERIMENT).info.run_id
    start("").finish("FINISHED")
    assert status(store, foreign) == "RUNNING"
    store.client.set_terminated(foreign)


def given_run(
    store: TrackingStore, monkeypatch: pytest.MonkeyPatch, tags: dict[str, str] | None = None
) -> str:
    """A run as ``mlflow run`` makes it, handed over by the environment."""
    run_id: str = store.client.create_run(EXPERIMENT, tags=tags or process_tags()).info.run_id
    store.client.log_param(run_id, "epochs", "")
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    return run_id


def test_a_new_request_takes_the_run_of_mlflow_run(
    store: TrackingStore, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = given_run(store, monkeypatch, {"mlflow.user": "jane"})
    tracker = start(fingerprint)
    tracker.log_params({"epochs": 5, "optim.lr": 0.1})
    tracker.finish("FINISHED")
    run = store.client.get_run(given)
    assert tracker.run_id == given
    assert "MLFLOW_RUN_ID" not in os.environ  # processes started from here must not take it
    assert run.info.run_name == "cv unet"
    assert "mlflow.user" not in run.data.tags
    # what MLflow recorded as typed cannot be changed; the resolved value stands beside it
    assert run.data.params == {"epochs": "", "config.epochs": "5", "optim.lr": "0.1"}


def test_resolved_settings_are_compared_when_such_a_run_is_continued(
    store: TrackingStore, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_run(store, monkeypatch)
    for _ in range(2):
        tracker = start(fingerprint)
        tracker.log_params({"epochs": 5})
        tracker.finish("KILLED")
    assert store.client.get_run(tracker.run_id).data.params["config.epochs"] == "5"


def test_the_run_of_mlflow_run_is_closed_when_an_older_one_goes_on(
    store: TrackingStore, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = start(fingerprint)
    older.finish("KILLED")
    given = given_run(store, monkeypatch)
    again = start(fingerprint)
    again.finish("FINISHED")
    run = store.client.get_run(given)
    assert again.run_id == older.run_id
    assert (run.info.status, run.info.lifecycle_stage) == ("FINISHED", "active")
    # its `mlflow run` (this process) still writes to it; it goes when that has ended
    store.client.set_tag(given, PID, "999999999")
    start("").finish("FINISHED")
    assert store.client.get_run(given).info.lifecycle_stage == "deleted"


def test_the_run_of_mlflow_run_is_closed_when_the_work_is_done_already(
    store: TrackingStore, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = start(fingerprint)
    done.finish("FINISHED")
    given = given_run(store, monkeypatch)
    assert find_finished_run(fingerprint) == done.run_id
    assert store.client.get_run(given).data.tags["bratsml.superseded_by"] == done.run_id


def test_a_store_that_cannot_be_reached_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match="start it, or unset MLFLOW_TRACKING_URI") as caught:
        start("f", root=tmp_path)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_can_be_part_of_another_and_then_shares_its_experiment(
    store: TrackingStore, fingerprint: str
) -> None:
    parent = open_run(
        command="sweep", experiment_name="another", run_name="sweep", fingerprint=fingerprint
    )
    part = start(f"{fingerprint} part", parent=parent.run_id)
    run, above = (store.client.get_run(r) for r in (part.run_id, parent.run_id))
    assert run.data.tags[run_state.PARENT] == parent.run_id
    assert run.info.experiment_id == above.info.experiment_id != EXPERIMENT
    abandon(part)
    again = start(f"{fingerprint} part", parent=parent.run_id)
    assert again.run_id == part.run_id
    for tracker in (again, parent):
        tracker.finish("FINISHED")
