"""How the end of a trial is written down; without torch, for workers too."""

from __future__ import annotations

from bratsml.tracking.tracker import RunStatus, Tracker
from bratsml.tuning.study import Result, SharedStudy, Word

STATUS: dict[Word, RunStatus] = {"complete": "FINISHED", "failed": "FAILED"}
"""Of a trial's run; every other outcome is KILLED with the tag PRUNED."""
SMALLEST_EXCESS_GB = 0.1
"""Constraint of a trial that was predicted to fit and did not."""


def close(result: Result, study: SharedStudy, number: int, tracker: Tracker) -> None:
    """Put the result on the trial's run, end the run, and tell the study, in this order."""
    status: RunStatus = STATUS.get(result.word, "KILLED")
    tags: dict[str, str] = {"bratsml.outcome": result.word}
    if status == "KILLED":
        tags["PRUNED"] = f"{result.word}: {result.reason}"
    if status == "FAILED":
        tags["bratsml.error"] = result.reason
    tracker.set_tags(tags)
    if result.reason:
        tracker.describe(f"Trial {number}: {result.word}. {result.reason}")
    tracker.finish(status)
    study.tell(number, result)
