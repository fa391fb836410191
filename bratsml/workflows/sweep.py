"""``sweep``: every combination of a grid of settings, queued, under one run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bratsml.compute.device import count_gpus
from bratsml.compute.launcher import Job, ProcessLauncher
from bratsml.compute.queue import Entry, JobQueue
from bratsml.compute.submit import InlineSubmitter, ProcessSubmitter, Submitter
from bratsml.config import flatten, to_yaml
from bratsml.errors import TrackingError
from bratsml.tracking.environment import describe_environment
from bratsml.tracking.mlflow_tracker import MlflowTracker, find_finished_run, open_run
from bratsml.tracking.run_state import mark_orphans
from bratsml.tracking.store import TrackingStore
from bratsml.tracking.tracker import RunStatus
from bratsml.workflows.console import say, warn
from bratsml.workflows.cv import Stopped
from bratsml.workflows.sweep_board import SweepBoard, count
from bratsml.workflows.sweep_job import SweepJob
from bratsml.workflows.sweep_plan import Sweep, SweepOptions, set_up, shown
from bratsml.workflows.sweep_report import SweepReport
from bratsml.workflows.view import say_how_to_view

JOB_MODULE = "bratsml.workflows.sweep_job"
QUEUE_FILE = "queue.json"


def run_sweep(options: SweepOptions) -> str:
    """Run or finish a sweep; returns its run id.

    What an earlier start of the same sweep finished is kept, the rest goes on where it was.

    Raises:
        BratsmlError: Bad input, before any work; asked to stop (everything is saved); or
            combinations failed, after the others are done.
    """
    sweep = set_up(options)
    finished = find_finished_run(sweep.fingerprint, root=sweep.root)
    if finished:
        say(f"already done: run {finished} is this sweep")
        return finished
    tracker = open_run(
        command="sweep",
        experiment_name="bratsml",
        run_name=f"sweep {sweep.name}",
        fingerprint=sweep.fingerprint,
        root=sweep.root,
    )
    status: RunStatus = "FAILED"
    try:
        describe(sweep, tracker)
        _work(sweep, tracker)
        status = "FINISHED"
    except (KeyboardInterrupt, Stopped):
        status = "KILLED"
        raise
    except BaseException as error:
        tracker.set_tags({"bratsml.error": str(error)[:500] or type(error).__name__})
        raise
    finally:
        _settle(sweep)
        tracker.finish(status)
    say_how_to_view(sweep.root, tracker)
    return tracker.run_id


def describe(sweep: Sweep, tracker: MlflowTracker) -> None:
    """Log the grid, and of the experiments what all combinations share."""
    trees = [flatten(combination.experiment.tree()) for combination in sweep.combinations]
    shared = {
        name: value
        for name, value in trees[0].items()
        if all(name in tree and tree[name] == value for tree in trees)
    }
    tracker.log_params(shared)
    grid = {f"grid.{name}": ", ".join(map(shown, values)) for name, values in sweep.grid.items()}
    tracker.log_params({"command": sweep.command, **grid})
    tracker.log_text(to_yaml(sweep.base.experiment), "sweep/base_experiment.yaml")
    tags, environment = describe_environment()
    tracker.set_tags(tags)
    tracker.log_json(environment, "environment.json")


def _work(sweep: Sweep, tracker: MlflowTracker) -> None:
    folder = sweep.root / "outputs" / f"sweep-{sweep.name}-{tracker.run_id[:8]}"
    jobs = _jobs(sweep, tracker.run_id, folder)
    folders = [job.record.parent for job in jobs.values()]
    report = SweepReport(sweep, folders, tracker)
    queue = JobQueue(folder / QUEUE_FILE, jobs, submitter_of(sweep), sweep.policy)
    try:
        _say_plan(sweep, queue.entries)
        with SweepBoard(sweep, folders, queue.entries) as board:

            def watch(entries: Sequence[Entry]) -> None:
                board.update(entries)
                report.update(entries)

            completed = queue.run(watch)
            board.finish(queue.entries)
    finally:
        queue.close()
    verdict = report.finish(queue.entries)
    counts = count(queue.entries)
    if not completed:
        raise Stopped(
            f"stopped with {counts['finished']} of {len(jobs)} combinations finished; everything "
            "is saved, the same command goes on"
        )
    say(verdict.sentence)
    missing = counts["failed"] + counts["timed out"] + counts["stopped"]
    if missing:
        lost = [entry for entry in queue.entries if entry.state != "finished"]
        raise TrackingError(
            f"{missing} of {len(jobs)} combinations did not finish; the first is "
            f"{sweep.combinations[list(jobs).index(lost[0].key)].label} ({lost[0].state}: "
            f"{lost[0].reason}; log in outputs/{folder.name}); the same command tries them again"
        )


def _jobs(sweep: Sweep, parent_run: str, folder: Path) -> dict[str, Job]:
    jobs = {}
    for combination in sweep.combinations:
        own = folder / f"combination_{combination.number:02d}"
        record = own / "job.json"
        SweepJob(
            command=sweep.command,
            name=f"{sweep.command} {sweep.name}: {combination.label}",
            experiment=combination.experiment.tree(),
            store=str(combination.prepared.store.path),
            is_phantom=combination.prepared.is_phantom,
            root=str(sweep.root),
            parent_run=parent_run,
            beside=sweep.workers,
            leader=os.getpid(),
        ).save(record)
        name = f"combination {combination.number}"
        jobs[combination.fingerprint] = Job(name, JOB_MODULE, record, own / "job.log")
    return jobs


def submitter_of(sweep: Sweep) -> Submitter:
    """Where the combinations run; alone, one has all GPUs and cores for its folds."""
    if sweep.launcher == "inline":
        return InlineSubmitter()
    if sweep.workers == 1:
        return ProcessSubmitter(ProcessLauncher(1, threads=0))
    threads = max(1, (os.cpu_count() or 1) // sweep.workers)
    num_gpus = count_gpus(sweep.base.experiment.compute)
    return ProcessSubmitter(ProcessLauncher(sweep.workers, threads=threads, num_gpus=num_gpus))


def _say_plan(sweep: Sweep, entries: Sequence[Entry]) -> None:
    done = count(entries)["finished"]
    before = f"; {done} finished before" if done else ""
    limit = sweep.policy.timeout_hours
    longest = f", at most {limit:g} h each" if limit else ""
    say(
        f"sweep of {len(entries)} combinations of {sweep.command}, {sweep.workers} at a time"
        f"{longest}{before}; the base is {sweep.base.label}"
    )


def _settle(sweep: Sweep) -> None:
    """Leave no run of a killed combination RUNNING."""
    try:
        store = TrackingStore.locate(sweep.root)
        mark_orphans(store.client, store.experiment_id())
    except Exception as error:  # tidied up by the next start
        warn(f"could not tidy up: {error}")
