"""How to look at the runs once they are there."""

from __future__ import annotations

from pathlib import Path

from bratsml.tracking.store import ui_address
from bratsml.tracking.tracker import Tracker
from bratsml.workflows.console import say


def say_how_to_view(root: Path, tracker: Tracker) -> None:
    """Print the command that opens the runs and the address of this one."""
    say(f"run {tracker.run_id}")
    say(f"to see it: mlflow ui (in {root.name}/, the project's folder), then open")
    say(f"  {ui_address(root, tracker.run_id)}")
