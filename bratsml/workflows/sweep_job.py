"""One combination of a sweep: a cross-validation or training as a job of a queue.

Run as ``python -m bratsml.workflows.sweep_job job.json``.
"""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from bratsml.compute.launcher import (
    KILL_AFTER_SECONDS,
    STOPPED_EXIT_CODE,
    exit_code_of,
    stop_when_parent_ends,
)
from bratsml.compute.submit import Word
from bratsml.config import Tree, build_config
from bratsml.errors import BratsmlError
from bratsml.experiment import Experiment
from bratsml.files import write_json
from bratsml.workflows.console import say
from bratsml.workflows.cv import Stopped, run_cv
from bratsml.workflows.records import find_record, load_record
from bratsml.workflows.request import Prepared, open_stores
from bratsml.workflows.start import Start
from bratsml.workflows.sweep_plan import Command
from bratsml.workflows.train import run_train

RUN_FILE = "run.json"


@dataclass(frozen=True)
class SweepJob:
    """The record of one combination: all that a process of its own needs, as JSON.

    Attributes:
        name: Of its run.
        parent_run: The sweep's.
        beside: Combinations that run at the same time, this one included.
        leader: Process id of the sweep.
    """

    command: Command
    name: str
    experiment: Tree
    store: str
    is_phantom: bool
    root: str
    parent_run: str
    beside: int
    leader: int

    def save(self, path: Path) -> None:
        """Write the record."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> SweepJob:
        """Read a record back."""
        return load_record(cls, path)


@dataclass(frozen=True)
class JobRun:
    """Where a combination is recorded: its run, and the folder that the run works in."""

    run_id: str = ""
    folder: str = ""

    @classmethod
    def of(cls, job_folder: Path) -> JobRun:
        """What the job has noted so far."""
        noted = find_record(job_folder / RUN_FILE)
        return cls(str(noted.get("run_id", "")), str(noted.get("folder", "")))

    def save(self, job_folder: Path) -> None:
        """Note it."""
        write_json(job_folder / RUN_FILE, asdict(self))


def work(job: SweepJob, folder: Path) -> Word:
    """Run or finish a combination; how it ended."""
    try:
        # an attempt whose sweep was killed still saves: two must not write the same checkpoints
        with FileLock(folder / "job.lock", timeout=2 * KILL_AFTER_SECONDS):
            Word.forget(folder)
            run_id = _run(job, folder)
    except Timeout:
        return Word(exit_code=1, reason="an earlier attempt has not ended")
    except (Stopped, KeyboardInterrupt):
        return Word(exit_code=STOPPED_EXIT_CODE, reason="asked to stop")
    except BratsmlError as error:
        say(f"bratsml: {error}")
        return Word(exit_code=exit_code_of(error), reason=str(error))
    except Exception as error:
        traceback.print_exc()
        return Word(exit_code=1, reason=f"{type(error).__name__}: {error}")
    if run_id != JobRun.of(folder).run_id:  # it was finished before
        JobRun(run_id).save(folder)
    return Word(exit_code=0)


def _run(job: SweepJob, folder: Path) -> str:
    experiment = build_config(Experiment, job.experiment)
    store = open_stores(Path(job.store), experiment)
    prepared = Prepared(Path(job.root), experiment, store, job.is_phantom)
    start = Start(
        parent=job.parent_run,
        name=job.name,
        beside=job.beside,
        opened=lambda run_id, works_in: JobRun(run_id, str(works_in)).save(folder),
    )
    return run_cv(prepared, start) if job.command == "cv" else run_train(prepared, start)


def main() -> None:
    """Run the job of a record; what it has to say at its end lies beside it."""
    path = Path(sys.argv[1])
    job = SweepJob.load(path)
    if os.getpid() != job.leader:
        stop_when_parent_ends()
    word = work(job, path.parent)
    word.leave(path.parent)
    sys.exit(word.exit_code)


if __name__ == "__main__":
    main()
