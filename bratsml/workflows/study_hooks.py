"""What a trial's training tells its study after every epoch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from bratsml.errors import ResourceError
from bratsml.training.checkpoint import load_checkpoint
from bratsml.training.hooks import Hook
from bratsml.tuning.study import SharedStudy
from bratsml.workflows.fold import EndedEarly, FoldWork

SCORE = "val/dice/mean"

logger = logging.getLogger("bratsml.study")


class Pruned(EndedEarly):
    """The trial is not worth going on with."""


class ReportHook(Hook):
    """Reports validation scores and ends the training when the pruner says so.

    A report is the trial's mean over its folds as far as it is known: the finished ones and the
    score of the one in progress. Its step counts epochs over all folds.

    Args:
        before: Mean Dice of the folds that are done.
    """

    def __init__(
        self, study: SharedStudy, number: int, work: FoldWork, before: Sequence[float]
    ) -> None:
        self.study, self.number, self.work, self.before = study, number, work, list(before)
        self.epochs = work.experiment.train.epochs

    def on_fit_start(self, epoch: int, epochs: int, steps: int) -> None:
        """Report what a killed process had saved and perhaps not reported."""
        if epoch and self.work.checkpoints.has_last:
            history = load_checkpoint(self.work.checkpoints.last_path)["history"]
            for done, metrics in enumerate(history):
                self._report(done, metrics)

    def on_epoch_end(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """Report, and ask whether to go on.

        Raises:
            Pruned: Not worth it. The last epoch of a fold is never pruned: its score is known.
        """
        if not self._report(epoch, metrics) or epoch + 1 >= epochs:
            return
        try:
            prune = self.study.should_prune(self.number)
        except ResourceError as error:
            logger.warning("%s; the trial goes on", error)
            return
        if prune:
            raise Pruned(
                f"at epoch {epoch + 1} of fold {self.work.fold} with validation Dice "
                f"{metrics[SCORE]:.4f}, behind other trials at that point"
            )

    def _report(self, epoch: int, metrics: dict[str, Any]) -> bool:
        if SCORE not in metrics:
            return False
        folds = [*self.before, metrics[SCORE]]
        step = self.work.fold * self.epochs + epoch + 1
        try:
            self.study.report(self.number, step, sum(folds) / len(folds))
        except ResourceError as error:  # reported again at the next start; training goes on
            logger.warning("%s; the score of epoch %d is not reported yet", error, epoch + 1)
            return False
        return True
