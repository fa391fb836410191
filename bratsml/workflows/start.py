"""How a run is begun: alone from the command line, or as part of a sweep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bratsml.errors import ConfigError
from bratsml.training.transfer import TransferConfig
from bratsml.workflows.start_weights import StartWeights

STARTED_FROM = "bratsml.started_from"
"""Tag with the run, or the file, whose weights a training started from."""


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
        weights: What to start from: one for a training, one per fold for a cross-validation; empty
            for fresh weights.
    """

    fork: bool = False
    parent: str = ""
    name: str = ""
    beside: int = 1
    opened: Callable[[str, Path], None] = _tell_nobody
    weights: tuple[StartWeights, ...] = ()

    @property
    def tags(self) -> dict[str, str]:
        """What links the run to the one it started from."""
        return {STARTED_FROM: self.weights[0].named} if self.weights else {}

    def require_weights(self, transfer: TransferConfig) -> None:
        """Refuse an experiment that fine-tunes without anything to start from.

        Raises:
            ConfigError: Saying how to give it.
        """
        if transfer.is_used and not self.weights:
            raise ConfigError(
                "the experiment has a transfer section, so it starts from trained weights; use "
                "bratsml finetune --checkpoint FILE_OR_RUN"
            )
