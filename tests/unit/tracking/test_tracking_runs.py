from __future__ import annotations

from pathlib import Path

import pytest

from bratsml.errors import TrackingError
from bratsml.tracking.mlflow_tracker import open_run
from bratsml.tracking.runs import best_checkpoint, find_run, latest_run, read_json_artifact


def recorded(folder: Path, command: str) -> str:
    names = {"experiment_name": "bratsml", "run_name": "cv unet", "fingerprint": ""}
    parent = open_run(command=command, **names)
    parent.log_params({"dataset.hash": "abc"})
    parent.log_json({"test": ["a"]}, "split.json")
    for fold in (10, 9):
        child = parent.child(f"fold {fold}", key=f"fold_{fold}")
        checkpoint = folder / "best.pt"
        checkpoint.write_bytes(f"weights {fold}".encode())
        child.log_checkpoint(checkpoint, "best", 0, {})
        child.finish("FINISHED")
    parent.finish("FINISHED")
    return parent.run_id


def test_a_run_is_read_back_with_its_children_in_order(
    shared_project: Path, tmp_path: Path
) -> None:
    run = find_run(recorded(tmp_path, "cv"))
    assert (run.name, run.status, run.params) == ("cv unet", "FINISHED", {"dataset.hash": "abc"})
    assert [child.key for child in run.children] == ["fold_9", "fold_10"]
    assert best_checkpoint(run.children[1]).read_bytes() == b"weights 10"
    assert read_json_artifact(run, "split.json") == {"test": ["a"]}


def test_the_latest_finished_run_of_a_command(shared_project: Path, tmp_path: Path) -> None:
    recorded(tmp_path, "measure")
    newest = recorded(tmp_path, "measure")
    open_run(command="measure", experiment_name="bratsml", run_name="x", fingerprint="").finish(
        "FAILED"
    )
    assert latest_run("measure").run_id == newest


def test_what_is_not_there_is_one_sentence(shared_project: Path, tmp_path: Path) -> None:
    run = find_run(recorded(tmp_path, "cv"))
    with pytest.raises(TrackingError, match="run 0123 is not in the tracking store"):
        find_run("0123")
    with pytest.raises(TrackingError, match="no finished nothing run"):
        latest_run("nothing")
    with pytest.raises(TrackingError, match="has no best checkpoint"):
        best_checkpoint(run)
    with pytest.raises(TrackingError, match=r"has no readable missing\.json"):
        read_json_artifact(run, "missing.json")
