"""How a run is begun: alone from the command line, or as part of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


def _tell_nobody(run_id: str, folder: Path) -> None:
    """Alone, nobody has to know."""


@dataclass(frozen=True)
class Start:
    """What is not part of the experiment.

    Attributes:
        fork: Start a new run although an equal one is finished or unfinished.
        parent: Id of the run that this one is shown under; ``""`` for none.
        name: Of the run; ``""`` for the usual one.
        beside: Runs that share the cores of the machine, this one included.
        opened: Told the id of the run and the folder it works in.
    """

    fork: bool = False
    parent: str = ""
    name: str = ""
    beside: int = 1
    opened: Callable[[str, Path], None] = _tell_nobody
