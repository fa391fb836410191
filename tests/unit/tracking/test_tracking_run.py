from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.figure
import pandas as pd
import plotly.graph_objects as go
import pytest

from bratsml.errors import ConfigError
from bratsml.tracking.delivery import RunDelivery, models_of
from bratsml.tracking.mlflow_tracker import MlflowTracker, attach_run, open_run
from bratsml.tracking.outbox import StoreAwayError
from bratsml.tracking.spool import Entry
from bratsml.tracking.store import TrackingStore

Start = Callable[[], MlflowTracker]


@pytest.fixture
def start(shared_project: Path, request: pytest.FixtureRequest) -> Start:
    """Opens the run of this test, the same one each time."""

    def open_it() -> MlflowTracker:
        return open_run(
            command="train",
            experiment_name="bratsml",
            run_name="unet, fold 0",
            fingerprint=request.node.name,
        )

    return open_it


@pytest.fixture
def store(shared_project: Path) -> TrackingStore:
    return TrackingStore.locate(shared_project)


def artifacts(store: TrackingStore, run_id: str) -> Path:
    return store.artifacts / "bratsml" / run_id / "artifacts"


def points(store: TrackingStore, run_id: str, name: str) -> list[tuple[int, float]]:
    """Every value MLflow holds for a metric, repeated ones included."""
    found = store.client.get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in found)


@pytest.fixture
def tracker(start: Start) -> Iterator[MlflowTracker]:
    tracker = start()
    yield tracker
    tracker.finish("FINISHED")


def test_params_are_recorded_under_dotted_names(
    tracker: MlflowTracker, store: TrackingStore
) -> None:
    tracker.log_params({"optim.lr": 3e-4, "loader.patch": (96, 96, 96), "model.kind": "unet"})
    params = store.client.get_run(tracker.run_id).data.params
    assert params == {
        "optim.lr": "0.0003",
        "loader.patch": "[96, 96, 96]",
        "model.kind": "unet",
    }


def test_equal_params_again_are_fine_and_others_are_refused(tracker: MlflowTracker) -> None:
    tracker.log_params({"optim.lr": 0.1})
    tracker.log_params({"optim.lr": 0.1})
    with pytest.raises(ConfigError, match=r"'optim.lr' was recorded as '0.1' .* '0.2'"):
        tracker.log_params({"optim.lr": 0.2})


def test_a_long_param_becomes_an_artifact_and_is_still_compared(
    tracker: MlflowTracker, store: TrackingStore
) -> None:
    tracker.log_params({"split.test": ["case"] * 2000})
    shown = store.client.get_run(tracker.run_id).data.params["split.test"]
    text = (artifacts(store, tracker.run_id) / "params/split.test.txt").read_text()
    assert "in params/split.test.txt" in shown
    assert json.loads(text) == ["case"] * 2000
    with pytest.raises(ConfigError, match=r"split\.test"):
        tracker.log_params({"split.test": ["other"] * 2000})


def test_more_params_than_mlflow_takes_at_once(
    tracker: MlflowTracker, store: TrackingStore
) -> None:
    tracker.log_params({f"p{number}": number for number in range(230)})
    assert len(store.client.get_run(tracker.run_id).data.params) == 230


def test_nothing_recorded_holds_a_folder_of_this_machine(
    tracker: MlflowTracker, store: TrackingStore
) -> None:
    tracker.log_params({"split.file": "/scans/doe_john/split.json"})
    tracker.set_tags({"bratsml.error": "no space left in /scans/doe_john"})
    tracker.log_text("file: /scans/doe_john/split.json", "experiment.yaml")
    run = store.client.get_run(tracker.run_id)
    recorded = json.dumps([run.data.params, run.data.tags])
    text = (artifacts(store, tracker.run_id) / "experiment.yaml").read_text()
    assert "doe" not in recorded
    assert "mlflow.user" not in run.data.tags
    assert text == "file: (path outside the project)"


def test_metrics_keep_their_steps_and_slashes(tracker: MlflowTracker, store: TrackingStore) -> None:
    for step in range(3):
        tracker.log_metrics({"train/loss": 1.0 - step / 4, "val/dice/ET": step / 4}, step)
    # history waits until what was logged before has arrived
    assert tracker.history("train/loss") == [(0, 1.0), (1, 0.75), (2, 0.5)]
    assert points(store, tracker.run_id, "val/dice/ET") == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert tracker.history("never") == []


def test_values_that_are_not_finite_are_left_out_and_named_in_a_tag(
    tracker: MlflowTracker, store: TrackingStore
) -> None:
    tracker.log_metrics({"val/hd95/ET": math.inf, "train/loss": math.nan, "lr": 0.1}, 2)
    tracker.log_metrics({"val/hd95/ET": -math.inf}, 3)
    tracker._outbox.flush()
    run = store.client.get_run(tracker.run_id)
    noted = json.loads(run.data.tags["bratsml.not_finite"])
    assert run.data.metrics == {"lr": 0.1}
    assert noted == {"val/hd95/ET": "inf first at step 2", "train/loss": "nan first at step 2"}


def test_a_metric_name_mlflow_refuses_is_recorded_under_another(tracker: MlflowTracker) -> None:
    tracker.log_metrics({"dice (ET)": 0.5}, 0)
    assert tracker.history("dice _ET_") == [(0, 0.5)]


def test_artifacts_of_every_kind(
    tracker: MlflowTracker, store: TrackingStore, tmp_path: Path
) -> None:
    file = tmp_path / "trace.json.gz"
    file.write_bytes(b"trace")
    tracker.log_file(file, "profiler")
    tracker.log_json({"folds": [["a"], ["b"]]}, "split.json")
    tracker.log_table(pd.DataFrame({"case": ["a"], "dice": [0.5]}), "scores/validation")
    tracker.log_figure(matplotlib.figure.Figure(figsize=(1, 1)), "overlays/worst")
    folder = artifacts(store, tracker.run_id)
    assert (folder / "profiler/trace.json.gz").read_bytes() == b"trace"
    assert json.loads((folder / "split.json").read_text()) == {"folds": [["a"], ["b"]]}
    assert (folder / "scores/validation.csv").read_text() == "case,dice\na,0.5\n"
    assert pd.read_parquet(folder / "scores/validation.parquet")["dice"].tolist() == [0.5]
    assert (folder / "overlays/worst.png").read_bytes().startswith(b"\x89PNG")


def test_plotly_pages_open_offline(tracker: MlflowTracker, store: TrackingStore) -> None:
    figure = go.Figure(go.Scatter(y=[1, 2]))
    tracker.log_figure([figure, figure], "curves")
    page = (artifacts(store, tracker.run_id) / "curves.html").read_text()
    assert page.count("plotly.js v") == 1  # the library itself, once for both figures
    assert page.count("Plotly.newPlot(") >= 2
    assert 'src="http' not in page


def test_an_object_that_is_no_figure_is_refused(tracker: MlflowTracker) -> None:
    with pytest.raises(TypeError, match="dict is not a matplotlib or Plotly figure"):
        tracker.log_figure({}, "x")


def test_a_checkpoint_is_a_logged_model_with_metrics_and_replaces_the_one_before(
    tracker: MlflowTracker, store: TrackingStore, tmp_path: Path
) -> None:
    best = tmp_path / "best.pt"
    for step, dice in ((0, 0.25), (1, 0.5)):
        tracker.log_metrics({"val/dice/mean": dice}, step)
        best.write_bytes(f"weights {step}".encode())
        (tmp_path / "best.pt.sha256").write_text("hash")
        tracker.log_checkpoint(best, "best", step, {"val/dice/mean": dice})
    (model,) = models_of(store, "1", tracker.run_id, "best")
    folder = store.artifacts / "bratsml" / "models" / model.model_id / "artifacts"
    assert (folder / "best.pt").read_bytes() == b"weights 1"
    assert (folder / "best.pt.sha256").read_text() == "hash"
    assert [(m.key, m.step, m.value) for m in model.metrics] == [("val/dice/mean", 1, 0.5)]
    # logging a metric with its model must not put it into the run's curve a second time
    assert points(store, tracker.run_id, "val/dice/mean") == [(0, 0.25), (1, 0.5)]
    old = [path for path in folder.parents[1].rglob("best.pt") if path.read_bytes() == b"weights 0"]
    assert not old  # its disk is free again
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "best.pt",
        "best.pt.sha256",
    ]


def test_description_and_system_metrics(tracker: MlflowTracker, store: TrackingStore) -> None:
    tracker.describe("**Dice** 0.9")
    tracker.finish("FINISHED")
    run = store.client.get_run(tracker.run_id)
    assert run.data.tags["mlflow.note.content"] == "**Dice** 0.9"
    assert run.data.metrics["system/system_memory_usage_megabytes"] > 0
    assert run.info.status == "FINISHED"


def test_children_are_found_again_by_key(tracker: MlflowTracker, store: TrackingStore) -> None:
    first = tracker.child("fold 0", key="fold_0")
    other = tracker.child("fold 1", key="fold_1")
    first.log_metrics({"train/loss": 1.0}, 0)
    first.finish("FINISHED")
    other.finish("KILLED")
    again = attach_run(tracker.run_id).child("any name", key="fold_0")
    assert again.run_id == first.run_id != other.run_id
    assert again.history("train/loss") == [(0, 1.0)]
    assert store.client.get_run(first.run_id).info.status == "FINISHED"
    going_on = tracker.child("fold 1", key="fold_1")
    assert store.client.get_run(other.run_id).info.status == "RUNNING"
    going_on.finish("FINISHED")


def test_a_continued_run_records_no_step_twice(
    start: Start, store: TrackingStore, tmp_path: Path
) -> None:
    before = start()
    for step in range(4):
        before.log_metrics({"train/loss": float(step)}, step)
    before.log_metrics({"untrained/dice": 0.1}, 9)
    before.finish("KILLED")
    after = start()
    assert (after.run_id, after.last_step, after.is_continued) == (before.run_id, 3, True)
    for step in range(2, 6):  # resumed from a checkpoint two epochs older
        after.log_metrics({"train/loss": float(step), "lr": 0.1}, step)
    after.log_checkpoint(_checkpoint(tmp_path), "best", 3, {"train/loss": 3.0})
    after.finish("FINISHED")
    curve = points(store, after.run_id, "train/loss")
    assert curve == [(step, float(step)) for step in range(6)]
    assert [step for step, _ in points(store, after.run_id, "lr")] == [2, 3, 4, 5]


def _checkpoint(folder: Path) -> Path:
    path = folder / "best.pt"
    path.write_bytes(b"weights")
    return path


class Outage:
    """Makes the store unreachable for every delivery, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_on = False
        deliver, find = RunDelivery.deliver, RunDelivery.find

        def deliver_or_fail(self_: RunDelivery, entry: Entry, folder: Path) -> None:
            if self.is_on:
                raise StoreAwayError("no answer")
            deliver(self_, entry, folder)

        def find_or_fail(self_: RunDelivery) -> object:
            if self.is_on:
                raise OSError("no answer")
            return find(self_)

        monkeypatch.setattr(RunDelivery, "deliver", deliver_or_fail)
        monkeypatch.setattr(RunDelivery, "find", find_or_fail)
        monkeypatch.setattr(RunDelivery, "is_store_there", lambda _: not self.is_on)
        monkeypatch.setattr("bratsml.tracking.outbox.FIRST_PAUSE_SECONDS", 0.02)
        monkeypatch.setattr("bratsml.tracking.mlflow_run.LAST_WAIT_SECONDS", 0.1)


def dead(*_: object) -> None:
    """What a dead process delivers."""
    raise StoreAwayError("dead")


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch)


def test_everything_recorded_during_an_outage_arrives_once(
    start: Start, store: TrackingStore, outage: Outage
) -> None:
    tracker = start()
    for step in range(10):
        tracker._outbox.flush()
        outage.is_on = step in (3, 4, 5)
        tracker.log_metrics({"train/loss": float(step)}, step)
        tracker.log_text(str(step), f"texts/{step}.txt")
    assert tracker._outbox.drain(5.0)
    tracker.finish("FINISHED")
    curve = points(store, tracker.run_id, "train/loss")
    assert curve == [(step, float(step)) for step in range(10)]
    assert len(list((artifacts(store, tracker.run_id) / "texts").iterdir())) == 10
    assert not (store.spool / tracker.run_id).exists()


def test_what_a_killed_process_could_not_deliver_comes_with_the_next_start(
    start: Start,
    store: TrackingStore,
    outage: Outage,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    killed = start()
    killed.log_metrics({"train/loss": 0.0}, 0)
    killed._outbox.flush()
    outage.is_on = True
    killed.log_metrics({"train/loss": 1.0}, 1)
    killed.log_checkpoint(_checkpoint(tmp_path), "best", 1, {"train/loss": 1.0})
    monkeypatch.setattr("bratsml.tracking.mlflow_tracker.is_process_alive", lambda _: False)
    monkeypatch.setattr("bratsml.tracking.run_state.is_process_alive", lambda _: False)
    killed._outbox._deliver = dead
    killed._outbox._is_store_there = lambda: False
    outage.is_on = False
    again = start()
    assert (again.run_id, again.last_step) == (killed.run_id, 1)
    again.log_metrics({"train/loss": 1.0}, 1)
    again.log_metrics({"train/loss": 2.0}, 2)
    again.finish("FINISHED")
    assert points(store, again.run_id, "train/loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert len(models_of(store, "1", again.run_id, "best")) == 1


def test_a_fold_that_starts_during_an_outage_gets_its_run_later(
    start: Start, store: TrackingStore, outage: Outage
) -> None:
    parent = start()
    outage.is_on = True
    fold = parent.child("fold 0", key="fold_0")
    fold.log_metrics({"train/loss": 1.0}, 0)
    assert fold.run_id == ""
    outage.is_on = False
    assert fold._outbox.drain(5.0)
    fold.finish("FINISHED")
    parent.finish("FINISHED")
    run = store.client.get_run(fold.run_id)
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.info.run_name == "fold 0"
    assert points(store, fold.run_id, "train/loss") == [(0, 1.0)]


@pytest.mark.slow
def test_a_locked_database_holds_nothing_up_for_good(start: Start, store: TrackingStore) -> None:
    tracker = start()
    tracker.log_metrics({"train/loss": 0.0}, 0)
    tracker._outbox.flush()
    other = sqlite3.connect(store.root / "mlflow.db", isolation_level=None)
    other.execute("begin exclusive")
    before = time.monotonic()
    tracker.log_metrics({"train/loss": 1.0}, 1)
    tracker.log_metrics({"train/loss": 2.0}, 2)
    assert time.monotonic() - before < 1.0
    tracker._outbox.flush()  # after the twenty seconds that MLflow insists on
    assert tracker._outbox.num_waiting >= 2  # a sample of system metrics may wait too
    other.execute("rollback")
    other.close()
    assert tracker._outbox.drain(60.0)
    tracker.finish("FINISHED")
    curve = points(store, tracker.run_id, "train/loss")
    assert curve == [(0, 0.0), (1, 1.0), (2, 2.0)]
