"""Which runs may be compared, and how they are grouped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from bratsml.errors import TrackingError
from bratsml.tracking.runs import RecordedRun
from bratsml.workflows.compare import _plain, group_by_configuration, require_comparable
from bratsml.workflows.compare import sentence as sentence_of

PARAMS = {"metric_version": "1", "dataset.hash": "d", "split.hash": "s", "optim.lr": "0.1"}


def run(run_id: str, status: str = "FINISHED", command: str = "cv", **params: str) -> RecordedRun:
    named = {key.replace("__", "."): value for key, value in params.items()}
    return RecordedRun(
        run_id, "cv x", status, "0", "", PARAMS | named, {"bratsml.command": command}
    )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (run("b", split__hash="t"), "differ in split.hash"),
        (run("b", metric_version="2"), r"differ in metric_version \(1 and 2\)"),
        (run("b", dataset__hash="e"), "differ in dataset.hash"),
        (run("b", command="train"), "of cv and b of train"),
        (run("b", command="predict"), "has no scores"),
        (run("b", status="KILLED"), "KILLED, not finished"),
    ],
)
def test_what_cannot_be_compared_says_why(other: RecordedRun, message: str) -> None:
    with pytest.raises(TrackingError, match=message):
        require_comparable([run("a"), other])


def test_seeds_of_one_configuration_belong_together() -> None:
    runs = [run("a", seed="0"), run("b", optim__lr="0.2"), run("c", seed="1", name="other")]
    tables = [pd.DataFrame({"number": [i]}) for i in range(3)]
    groups = group_by_configuration(runs, tables)
    assert [[r.run_id for r in group.runs] for group in groups] == [["a", "c"], ["b"]]
    assert [group.name for group in groups] == ["cv x a", "cv x b"]
    assert groups[0].tables[1]["number"].tolist() == [2]


@pytest.mark.parametrize(
    ("verdict", "ending"),
    [
        ("tie", "a tie; a difference below 0.0300 would mostly go unseen"),
        ("too few to tell", "too few patients to tell"),
        ("first is better", "corrected p 0.04): ours is better"),
        ("second is better", "corrected p 0.04): theirs is better"),
    ],
)
def test_the_verdict_in_words(verdict: str, ending: str) -> None:
    row: dict[str, Any] = {
        "metric": "dice", "region": "ET", "difference": -0.01, "low95": -0.02, "high95": 0.0,
        "num_patients": 9, "p_corrected": 0.04, "smallest_detectable": 0.03, "verdict": verdict,
    }  # fmt: skip
    words = sentence_of(row, "ours", "theirs")
    assert words.startswith("Dice ET: theirs minus ours is -0.0100 (95 % interval -0.0200 to")
    assert words.endswith(ending)


def test_reports_hold_plain_numbers() -> None:
    content = {"a": [np.float64("nan"), np.int64(3), float("nan")], "b": {"c": np.float32(0.5)}}
    assert _plain(content) == {"a": [None, 3, None], "b": {"c": 0.5}}
