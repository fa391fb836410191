"""Every tracker takes the same calls; what is recorded is the business of its own tests."""

from __future__ import annotations

import inspect
from pathlib import Path

import matplotlib.figure
import pandas as pd
import pytest

from bratsml.tracking.mlflow_tracker import MlflowTracker
from bratsml.tracking.tracker import NullTracker, Tracker

METHODS = [
    name
    for name, member in vars(Tracker).items()
    if inspect.isfunction(member) and not name.startswith("_")
]


@pytest.mark.parametrize("cls", [NullTracker, MlflowTracker])
@pytest.mark.parametrize("name", METHODS)
def test_methods_have_the_parameters_of_the_protocol(cls: type, name: str) -> None:
    ours = inspect.signature(getattr(cls, name)).parameters.values()
    theirs = inspect.signature(getattr(Tracker, name)).parameters.values()
    assert [(p.name, p.default, p.kind) for p in ours] == [
        (p.name, p.default, p.kind) for p in theirs
    ]


def test_the_null_tracker_takes_everything(tmp_path: Path) -> None:
    tracker = NullTracker()
    assert isinstance(tracker, Tracker)
    tracker.log_params({"optim.lr": 0.1})
    tracker.log_metrics({"train/loss": float("nan")}, step=0)
    tracker.set_tags({"a": "b"})
    tracker.log_file(tmp_path / "missing", "folder")
    tracker.log_text("text", "a.txt")
    tracker.log_json({}, "a.json")
    tracker.log_table(pd.DataFrame(), "a")
    tracker.log_figure(matplotlib.figure.Figure(), "a")
    tracker.log_checkpoint(tmp_path / "missing", "best", 0, {})
    tracker.describe("text")
    tracker.finish("FINISHED")
    assert (tracker.run_id, tracker.last_step, tracker.history("train/loss")) == ("", -1, [])
    assert tracker.child("fold 0", key="fold_0").run_id == ""
