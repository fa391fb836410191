"""A worker of a study: takes one trial after another and runs each in a process of its own.

Run as ``python -m bratsml.workflows.study_worker study.json``. A trial that dies is started again
where it was; one that dies again and again at the same place is given up, and the worker goes on.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bratsml.compute.launcher import (
    STOPPED_EXIT_CODE,
    Job,
    Outcome,
    ProcessLauncher,
    stop_when_parent_ends,
)
from bratsml.errors import BratsmlError, ResourceError
from bratsml.tracking.mlflow_tracker import attach_run
from bratsml.tracking.run_state import HOST, is_process_alive, process_tags, this_host
from bratsml.training.signals import listening
from bratsml.tuning.study import DEATHS, Claim, Result, SharedStudy, Word
from bratsml.workflows.console import say
from bratsml.workflows.records import epochs_in, find_record
from bratsml.workflows.study_outcome import SMALLEST_EXCESS_GB, close
from bratsml.workflows.study_record import StudyRecord, TrialJob

BEAT_SECONDS = 20.0
IDLE_SECONDS = 1.0
MOST_DEATHS = 3
"""Deaths of one trial at the same epoch before it is given up."""
STORAGE_PATIENCE_SECONDS = 600.0

logger = logging.getLogger("bratsml.study")


def is_owner_alive(owner: Mapping[str, str]) -> bool | None:
    """Whether a worker works; ``None`` for one on another machine."""
    return is_process_alive(dict(owner)) if owner.get(HOST) == this_host() else None


@dataclass
class Worker:
    """One worker; see the module."""

    record: StudyRecord
    study: SharedStudy
    owner: dict[str, str] = field(default_factory=process_tags)
    beaten_at: float = 0.0

    def work(self) -> bool:
        """Run trials until there is nothing left; False when asked to stop before."""
        with listening() as request:
            while not request.asked:
                claim = self._claim()
                if claim == "done":
                    return True
                if claim == "wait":
                    time.sleep(IDLE_SECONDS)
                elif not isinstance(claim, str) and not self._run(claim):
                    return False
        return False

    def _claim(self) -> Claim | str:
        """The next trial; a storage that is away is waited for, some minutes."""
        record, since = self.record, time.monotonic()
        while True:
            try:
                return self.study.claim(
                    self.owner,
                    is_owner_alive,
                    record.sampler,
                    int(record.experiment["seed"]),
                    record.trials,
                    record.deadline,
                )
            except ResourceError as error:
                if time.monotonic() - since > STORAGE_PATIENCE_SECONDS:
                    raise
                logger.warning("%s; trying again", error)
                time.sleep(5 * IDLE_SECONDS)

    def _run(self, claim: Claim) -> bool:
        """Run one trial until it has a result; False when asked to stop."""
        folder = self.record.trial_folder(claim.number)
        path = folder / "job.json"
        TrialJob(study=str(self.record.path), number=claim.number, params=dict(claim.params)).save(
            path
        )
        name = f"{self.record.kind} {claim.number}"
        job = Job(name, self.record.trial_module, path, folder / "trial.log")
        while True:
            outcomes = ProcessLauncher().run([job], lambda _: self._beat(claim.number))
            if not outcomes or outcomes[0].state == "stopped":
                self.study.return_to_queue(claim.number)
                return False
            if outcomes[0].state == "finished" or self._gave_up(claim, outcomes[0], folder):
                return True
            time.sleep(self.record.death_wait_seconds)

    def _beat(self, number: int) -> None:
        if time.monotonic() - self.beaten_at < BEAT_SECONDS:
            return
        self.beaten_at = time.monotonic()
        try:
            self.study.beat(number)
        except ResourceError as error:
            logger.warning("%s", error)

    def _gave_up(self, claim: Claim, outcome: Outcome, folder: Path) -> bool:
        """Take note of a death; after too many at one place end the trial here."""
        number = claim.number
        deaths = [*self.study.noted(number, DEATHS, []), epochs_done(folder)]
        self.study.note(number, DEATHS, deaths)
        say(f"{outcome.job.name} died at epoch {deaths[-1]}: {outcome.last_line}")
        if len(deaths) < MOST_DEATHS or len(set(deaths[-MOST_DEATHS:])) > 1:
            return False
        killed = outcome.exit_code < 0
        reason = f"its process ended {MOST_DEATHS} times at the same epoch: {outcome.last_line}"
        # being killed is most often the host's memory running out: the point's fault, not ours
        excess = SMALLEST_EXCESS_GB if killed else None
        word: Word = "infeasible" if killed else "failed"
        result = Result(word, reason, constraint_gb=excess)
        parent = attach_run(self.record.parent_run, root=Path(self.record.root))
        tracker = parent.child(outcome.job.name, key=self.record.trial_key(number))
        close(result, self.study, number, tracker)
        return True


def epochs_done(folder: Path) -> int:
    """Epochs that a trial has behind it, over all its folds."""
    from bratsml.workflows.fold import PROGRESS_FILE  # brings torch

    total = 0
    for path in folder.glob(f"fold_*/{PROGRESS_FILE}"):
        total += epochs_in(find_record(path))
    return total


def main() -> None:
    """Work on the study of a record; exit 143 when asked to stop."""
    stop_when_parent_ends()
    record = StudyRecord.load(Path(sys.argv[1]))
    try:
        finished = Worker(record, record.open()).work()
    except BratsmlError as error:
        say(f"bratsml: {error}")
        sys.exit(1)
    if not finished:
        sys.exit(STOPPED_EXIT_CODE)


if __name__ == "__main__":
    main()
