"""A study from its plan to its verdict: what ``python studies/tune_*.py`` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bratsml.compute.device import count_gpus
from bratsml.compute.launcher import Job, ProcessLauncher
from bratsml.config import Tree, merge
from bratsml.errors import ResourceError, TrackingError
from bratsml.files import sha256_of_json, write_text
from bratsml.tracking.mlflow_tracker import (
    MlflowTracker,
    attach_run,
    find_finished_run,
    open_run,
)
from bratsml.tracking.run_state import mark_orphans
from bratsml.tracking.runs import find_run
from bratsml.tracking.store import TrackingStore
from bratsml.tuning.settings import PrunerConfig
from bratsml.tuning.study import RUN, SharedStudy
from bratsml.workflows.console import say, warn
from bratsml.workflows.cv import Stopped
from bratsml.workflows.ending import tell
from bratsml.workflows.fold import describe_setup
from bratsml.workflows.study_crew import Crew
from bratsml.workflows.study_plan import StudyOptions, StudyPlan, parse
from bratsml.workflows.study_record import StudyRecord
from bratsml.workflows.study_report import StudyReport
from bratsml.workflows.study_setup import Search, set_up
from bratsml.workflows.study_verdict import (
    Verdict,
    candidates,
    decide,
    rerun_points,
    space_with_seed,
    tuned_yaml,
)
from bratsml.workflows.study_worker import is_owner_alive
from bratsml.workflows.view import say_how_to_view

WORKER_MODULE = "bratsml.workflows.study_worker"


def main(plan: StudyPlan, arguments: Sequence[str] | None = None) -> None:
    """Run a study file; what a user can cause ends in one sentence and exit code 1."""
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    try:
        run_study(*parse(plan, arguments))
    except KeyboardInterrupt:
        print("bratsml: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        sys.exit(tell(error))


def run_study(plan: StudyPlan, options: StudyOptions) -> str:
    """Run a study, go on with it, or help one that is running; returns its run id.

    Raises:
        BratsmlError: Bad input, before any work; or it was asked to stop (everything is saved).
    """
    search = set_up(plan, options)
    try:
        tracker = _open_parent(search)
    except TrackingError:
        parent = search.study.kept(RUN, "")
        if not parent or find_run(parent, root=search.prepared.root).status != "RUNNING":
            raise
        say(f"study {search.name!r} is running already; this process lends it workers")
        _work(search, search.record(parent), None)
        return str(parent)
    if tracker is None:
        return str(search.study.kept(RUN))
    return _lead(search, tracker)


def _lead(search: Search, tracker: MlflowTracker) -> str:
    """Search, rerun the best, say what came out."""
    root = search.prepared.root
    search.study.keep(RUN, tracker.run_id)
    status: Any = "FAILED"
    try:
        describe_setup(tracker, search.prepared.experiment, search.prepared.store, search.split)
        tracker.log_json(search.plan.tree(), "study/plan.json")
        record = search.record(tracker.run_id)
        _say_plan(search)
        if not _work(search, record, tracker):
            status = "KILLED"
            counts = search.study.counts()
            raise Stopped(
                f"stopped with {counts.ended} of {record.trials} trials ended; everything is "
                "saved, the same command goes on"
            )
        if search.study.is_hopeless:
            raise ResourceError(
                f"the first trials all failed: {_first_reason(search.study)}; logs are in "
                f"outputs/{search.folder.name}"
            )
        finished, sentence = _conclude(search, record, tracker)
        status = "FINISHED" if finished else "KILLED"
        if not finished:
            raise Stopped("stopped during the reruns; the same command goes on")
        say(sentence)
        say_how_to_view(root, tracker)
        return tracker.run_id
    except (KeyboardInterrupt, Stopped):
        status = "KILLED"
        raise
    finally:
        _settle(search)
        tracker.finish(status)


def _open_parent(search: Search) -> MlflowTracker | None:
    """The study's run, opened; ``None`` when all is done already."""
    root = search.prepared.root
    key = sha256_of_json(["study", search.name, search.study.uid])
    finished = find_finished_run(key, root=root)
    if finished is None:
        return open_run(
            command="study",
            experiment_name="bratsml",
            run_name=f"study {search.name}",
            fingerprint=key,
            root=root,
        )
    counts = search.study.counts()
    if counts.ended >= search.plan.budget.trials and not counts.running:
        say(
            f"already done: run {finished} is this study; --trials goes on with more, --new starts "
            "another"
        )
        search.study.keep(RUN, finished)
        return None
    tracker = attach_run(finished, root=root)
    tracker.open({}, reopen_finished=True)
    return tracker


def _say_plan(search: Search) -> None:
    budget, counts = search.plan.budget, search.study.counts()
    limit = f", at most {budget.vram_gb:g} GB each" if budget.vram_gb else ""
    hours = f", none begun after {budget.hours:g} h" if budget.hours else ""
    say(
        f"study {search.name!r}: {counts.ended} of {budget.trials} trials ended; "
        f"{search.options.workers} at a time{limit}{hours}; kept in {search.storage.shown}"
    )


def _work(search: Search, record: StudyRecord, tracker: MlflowTracker | None) -> bool:
    """Let the workers work; False when asked to stop before they were done."""
    path = record.save()
    workers = search.options.workers
    jobs = [
        Job(f"worker {slot}", WORKER_MODULE, path, Path(record.folder) / f"worker_{slot}.log")
        for slot in range(workers)
    ]
    cores = os.cpu_count() or 1
    launcher = ProcessLauncher(
        workers,
        threads=max(1, cores // workers),
        num_gpus=count_gpus(search.prepared.experiment.compute),
    )
    if tracker is None:
        return Crew(jobs, launcher, lambda: None).run()
    report = StudyReport(record, record.open(), tracker)
    try:
        return Crew(jobs, launcher, report.update).run()
    finally:
        report.finish()


def _conclude(search: Search, record: StudyRecord, tracker: MlflowTracker) -> tuple[bool, str]:
    """Rerun the best and the default, write the winner down; (whether finished, what to say)."""
    study, budget = search.study, search.plan.budget
    if not study.counts().complete:
        sentence = f"no trial came to its end: {_first_reason(study)}"
        tracker.describe(_description(search, sentence, None))
        return True, sentence
    seed = search.prepared.experiment.seed
    default = search.plan.space.point_of(search.prepared.experiment)
    found = candidates(study.trials(), default, budget.reruns)
    if not budget.reruns or len(found) < 2:
        sentence = _search_sentence(search)
        tracker.describe(_description(search, sentence, None))
        return True, sentence
    points = rerun_points(found, seed, budget.seeds)
    space = space_with_seed(search.plan.space)
    reruns = SharedStudy.create(
        search.storage,
        # more trials may bring other candidates: each set of them is judged once
        f"{search.name}.reruns-{sha256_of_json(points)[:8]}",
        space,
        record.objectives,
        {"of": study.uid, "points": points},
        queue=points,
    )
    say(f"training the {len(found)} candidates again with fresh seeds ({len(points)} reruns)")
    again = record.model_copy(
        update={
            "name": reruns.study.study_name,
            "kind": "rerun",
            "folder": str(search.folder / f"reruns_{sha256_of_json(points)[:8]}"),
            "space": space,
            "pruner": PrunerConfig(kind="none", worse_p=None),
            "trials": len(points),
            "deadline": None,
        }
    )
    if not _work(search, again, tracker):
        reruns.return_stale(is_owner_alive)
        return False, ""
    store = search.prepared.store
    patients = {case: store.meta(case).patient for case in store.case_ids}
    verdict = decide(found, reruns, seed, patients)
    _log_verdict(search, verdict, tracker)
    return True, verdict.sentence


def _log_verdict(search: Search, verdict: Verdict, tracker: MlflowTracker) -> None:
    tracker.set_tags({"bratsml.verdict": verdict.sentence})
    if len(verdict.table):
        tracker.log_table(verdict.table, "study/verdict")
        best = verdict.table["rerun_dice"].max()
        tracker.log_metrics({"study/rerun_best_dice": float(best)}, step=0)
    if verdict.best is not None:
        plan = search.plan
        space_changes = plan.space.changes(verdict.best.params, search.prepared.experiment)
        text = tuned_yaml(
            plan.base, _lasting_changes(search), space_changes, _comment(search, verdict)
        )
        path = search.prepared.root / "experiments" / f"tuned_{search.name}.yaml"
        write_text(path, text)
        tracker.log_text(text, f"study/{path.name}")
        say(f"wrote experiments/{path.name}")
    tracker.describe(_description(search, verdict.sentence, verdict))


def _lasting_changes(search: Search) -> Tree:
    """The plan's own changes; what shrinks it to the phantom set comes with the phantom set."""
    return {} if search.prepared.is_phantom else merge({}, search.plan.changes)


def _comment(search: Search, verdict: Verdict) -> list[str]:
    budget = search.plan.budget
    return [
        f"From study {search.name}: {search.study.counts().ended} trials around {search.plan.base} "
        f"on {sum(map(len, search.split.folds))} cases, {search.plan.folds} of "
        f"{len(search.split.folds)} folds, {budget.vram_gb or 'any'} GB.",
        f"Reruns with fresh seeds: {verdict.sentence}.",
        "Both were scored on the validation cases that chose them; the test split was not opened.",
    ]


def _search_sentence(search: Search) -> str:
    complete = [t for t in search.study.trials() if t.state.name == "COMPLETE"]
    best = max(complete, key=lambda trial: trial.values[0])
    return (
        f"best of {len(complete)} complete trials: trial {best.number} with Dice "
        f"{best.values[0]:.4f}; the best of many is too good by chance, and none was rerun"
    )


def _first_reason(study: SharedStudy) -> str:
    reasons = [t.user_attrs.get("reason", "") for t in study.trials() if t.state.is_finished()]
    return next((reason for reason in reasons if reason), "see the trials' logs")


def _description(search: Search, sentence: str, verdict: Verdict | None) -> str:
    counts = search.study.counts()
    lines = [
        f"**Study {search.name}** around `{search.plan.base}`: {counts.complete} trials complete, "
        f"{counts.pruned} pruned or infeasible, {counts.failed} failed.",
        "",
        sentence[0].upper() + sentence[1:] + ".",
        "",
    ]
    if verdict is not None and len(verdict.table):
        columns = [
            "candidate",
            "search_dice",
            "rerun_dice",
            "difference",
            "low95",
            "high95",
            "verdict",
        ]
        lines += [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        for row in verdict.table[columns].itertuples(index=False):
            cells = (f"{v:.4f}" if isinstance(v, float) else str(v or "") for v in row)
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Figures: `study/figures.html`; every trial: `study/trials.csv`."]
    return "\n".join(lines)


def _settle(search: Search) -> None:
    """Leave nothing RUNNING that nobody works on."""
    try:
        search.study.return_stale(is_owner_alive)
        store = TrackingStore.locate(search.prepared.root)
        mark_orphans(store.client, store.experiment_id())
    except Exception as error:  # tidied up by the next start
        warn(f"could not tidy up: {error}")
