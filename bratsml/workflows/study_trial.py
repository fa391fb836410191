"""One trial of a study, in a process of its own: memory check, folds, verdict.

Run as ``python -m bratsml.workflows.study_trial job.json``. Whatever happens inside becomes a
result of the trial and a status of its run; only a signal ends the process without one, and then
the next process of the same trial goes on from its checkpoint in the same run.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from filelock import FileLock

from bratsml.compute.launcher import STOPPED_EXIT_CODE, stop_when_parent_ends
from bratsml.config import Config
from bratsml.errors import BratsmlError, ResourceError
from bratsml.evaluation.evaluate import case_table, summarize
from bratsml.experiment import Experiment
from bratsml.files import write_json
from bratsml.tracking.mlflow_tracker import attach_run
from bratsml.tracking.tracker import RunStatus, Tracker
from bratsml.training.checkpoint import load_checkpoint
from bratsml.training.loop import Diverged
from bratsml.tuning.pruning import clearly_worse
from bratsml.tuning.settings import Objective
from bratsml.tuning.study import CASES, MEMORY, RUN, Result, SharedStudy, Word
from bratsml.workflows.console import say
from bratsml.workflows.fold import RESULT_FILE, SCORES_FILE, FoldWork, describe_setup, run_fold
from bratsml.workflows.records import load_record, load_scores
from bratsml.workflows.request import open_stores
from bratsml.workflows.study_hooks import Pruned, ReportHook
from bratsml.workflows.study_outcome import SMALLEST_EXCESS_GB, close
from bratsml.workflows.study_record import OUTCOME_FILE, StudyRecord, TrialJob

PREVIOUS_WAIT_SECONDS = 300
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "alloc_failed")


class Oracle(Protocol):
    """What a study asks about memory; :mod:`bratsml.tuning.memory` has both."""

    def check_budget(self, experiment: Experiment, budget_gb: float) -> Any:
        """A verdict with ``fits``, ``estimate`` and ``reason``."""

    def record_out_of_memory(self, experiment: Experiment, budget_gb: float) -> None:
        """Remember that this experiment did not fit after all."""


class Stopped(Exception):
    """Somebody asked the training to stop; all is saved."""


class Infeasible(Exception):
    """The trial does not fit into the memory it may take."""

    def __init__(self, reason: str, excess_gb: float) -> None:
        self.excess_gb = excess_gb
        super().__init__(reason)


class OpenTracker:
    """A tracker whose run stays open when a fold has ended: the trial closes it."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tracker, name)

    def finish(self, status: RunStatus) -> None:
        """Leave the run open."""


@dataclass
class TrialRun:
    """One trial at work.

    Attributes:
        constraint_gb: Predicted memory above the budget; ``None`` before it is known.
        attributes: Kept with the trial in the study.
    """

    record: StudyRecord
    job: TrialJob
    study: SharedStudy
    tracker: Tracker
    oracle: Oracle | None

    def __post_init__(self) -> None:
        self.folder = self.record.trial_folder(self.job.number)
        self.constraint_gb: float | None = None
        self.attributes: dict[str, Any] = {RUN: self.tracker.run_id}

    def result(self) -> Result:
        """Run the trial; every error but a request to stop becomes a result."""
        try:
            experiment = self.record.experiment_of(self.job.params)
            self._note_point()
            self._check_memory(experiment)
            values = self._train(experiment)
            return self._as("complete", "", values)
        except Stopped:
            raise
        except Infeasible as error:
            self.constraint_gb = error.excess_gb
            return self._as("infeasible", str(error))
        except Pruned as error:
            return self._as("pruned", str(error))
        except Diverged as error:
            return self._as("diverged", str(error))
        except BratsmlError as error:
            return self._as("failed", str(error))
        except Exception as error:
            traceback.print_exc()
            return self._as("failed", f"{type(error).__name__}: {error}"[:500])

    def _as(self, word: Word, reason: str, values: tuple[float, ...] = ()) -> Result:
        return Result(word, reason, values, self.constraint_gb, self.attributes)

    def _note_point(self) -> None:
        number, name = self.job.number, self.record.name
        self.tracker.set_tags({"bratsml.study": name, "bratsml.trial": str(number)})
        self.tracker.log_json(dict(self.job.params), "point.json")

    def _check_memory(self, experiment: Experiment) -> None:
        """Ask the oracle before anything is trained.

        Raises:
            Infeasible: The trial needs more than the budget.
        """
        budget = self.record.vram_gb
        if self.oracle is None or budget is None:
            return
        try:
            verdict = self.oracle.check_budget(experiment, budget)
        except Exception as error:  # the oracle is a help; training finds out by itself
            self.tracker.set_tags({"bratsml.oracle": f"failed: {error}"[:500]})
            return
        numbers = estimate_numbers(verdict.estimate)
        peak_gb = numbers.get("peak_mb", 0.0) / 1000
        self.attributes[MEMORY] = {"peak_gb": peak_gb, "budget_gb": budget}
        self.constraint_gb = min(peak_gb - budget, 0.0)
        self.tracker.log_metrics(
            {f"memory/{name}": value for name, value in numbers.items()}
            | {"memory/budget_mb": budget * 1000},
            step=0,
        )
        if not verdict.fits:
            excess = max(peak_gb - budget, SMALLEST_EXCESS_GB)
            raise Infeasible(f"does not fit into {budget:g} GB: {verdict.reason}", excess)

    def _train(self, experiment: Experiment) -> tuple[float, ...]:
        try:
            return self._train_folds(experiment)
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            budget = self.record.vram_gb
            if self.oracle is not None and budget is not None:
                with contextlib.suppress(Exception):
                    self.oracle.record_out_of_memory(experiment, budget)
            known = self.attributes.get(MEMORY, {}).get("peak_gb", 0.0)
            excess = max(known - (budget or 0.0), SMALLEST_EXCESS_GB)
            raise Infeasible(
                f"ran out of memory while training (predicted {known:.2f} GB)", excess
            ) from error

    def _train_folds(self, experiment: Experiment) -> tuple[float, ...]:
        """Train the folds not trained before; the objectives' values.

        Raises:
            Stopped: On request, with everything saved.
            Pruned: The trial is not worth going on with.
        """
        record = self.record
        store, split = open_stores(Path(record.store), experiment), record.the_split
        if record.folds > 1:
            describe_setup(self.tracker, experiment, store, split)
        tables: list[pd.DataFrame] = []
        costs: list[dict[str, float]] = []
        for fold in range(record.folds):
            folder = self.folder / f"fold_{fold}"
            work = FoldWork.build(experiment, store, split, fold, folder)
            if not (folder / RESULT_FILE).is_file():
                self._train_fold(work, tables)
            tables.append(load_scores(folder / SCORES_FILE).assign(fold=fold))
            costs.append(_costs(work))
            if fold + 1 < record.folds:
                self._prune_by_cases(tables)
        table = pd.concat(tables, ignore_index=True)
        metrics = summarize(case_table(table.to_dict("records")), "oof")
        metrics |= {
            "trial/epoch_seconds": float(np.mean([cost["epoch_seconds"] for cost in costs])),
            "trial/peak_memory_mb": float(max(cost["peak_memory_mb"] for cost in costs)),
        }
        self.tracker.log_table(table, "scores/out_of_fold")
        self.tracker.log_metrics(metrics, step=0)
        self.attributes[CASES] = dice_by_case(table)
        return tuple(_value(name, metrics) for name in record.objectives)

    def _train_fold(self, work: FoldWork, before: list[pd.DataFrame]) -> None:
        tracker = OpenTracker(self.tracker)
        name = f"{self.record.kind} {self.job.number}, fold {work.fold}"
        child = None
        if self.record.folds > 1:
            child = self.tracker.child(name, key=f"fold_{work.fold}")
            tracker = OpenTracker(child)
        scores = [float(table.groupby("region")["dice"].mean().mean()) for table in before]
        hook = ReportHook(self.study, self.job.number, work, scores)
        status: RunStatus = "KILLED"
        try:
            result = run_fold(work, tracker, hooks=[hook])
            status = "KILLED" if result.stopped_by == "signal" else "FINISHED"
        except Pruned:
            raise
        except BaseException as error:
            status = "KILLED" if ran_out_of_memory(error) else "FAILED"
            raise
        finally:
            if child is not None:
                child.finish(status)
        if result.stopped_by == "signal":
            raise Stopped

    def _prune_by_cases(self, tables: list[pd.DataFrame]) -> None:
        worse_p = self.record.pruner.worse_p
        if worse_p is None or not self.study.is_single:
            return
        ours = dice_by_case(pd.concat(tables, ignore_index=True))
        if clearly_worse(ours, self.study.best_cases(), worse_p):
            raise Pruned(
                f"after {len(tables)} of {self.record.folds} folds its cases are scored worse "
                f"than those of the best trial (Wilcoxon, p < {worse_p:g})"
            )


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that memory ran out."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, torch.cuda.OutOfMemoryError | MemoryError):
            return True
        text = str(seen).lower()
        if isinstance(seen, RuntimeError) and any(word in text for word in _OUT_OF_MEMORY):
            return True
        seen = seen.__cause__
    return False


def estimate_numbers(estimate: Any) -> dict[str, float]:
    """The numbers of a memory estimate by name."""
    if isinstance(estimate, Config):
        fields: Mapping[str, Any] = estimate.model_dump()
    elif is_dataclass(estimate) and not isinstance(estimate, type):
        fields = asdict(estimate)
    else:
        fields = getattr(estimate, "__dict__", {})
    return {
        name: float(value)
        for name, value in fields.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def dice_by_case(table: pd.DataFrame) -> dict[str, float]:
    """Mean Dice over regions of every case; cases without any are left out."""
    means = table.groupby("case")["dice"].mean().dropna()
    return {str(case): round(float(value), 6) for case, value in means.items()}


def _costs(work: FoldWork) -> dict[str, float]:
    """Seconds and memory of a fold's epochs; kept beside its result, since checkpoints go."""
    history = load_checkpoint(work.checkpoints.last_path)["history"]
    seconds = [row["epoch_seconds"] for row in history]
    # the first epoch of a process pays for warming up
    return {
        "epoch_seconds": float(np.median(seconds)),
        "peak_memory_mb": max(row["peak_memory_mb"] for row in history),
    }


def _value(objective: Objective, metrics: Mapping[str, float]) -> float:
    if objective == "dice":
        return metrics.get("oof/dice/mean", 0.0)
    return metrics[f"trial/{objective}"]


def _result_of(values: Sequence[float], **others: Any) -> Result:
    return Result(values=tuple(values), **others)


def run_trial(job: TrialJob, oracle: Oracle | None) -> None:
    """Run a trial to its end, or only tell its result when an earlier process has reached it.

    Raises:
        Stopped: On request; the trial's run is KILLED and everything is saved.
    """
    record = StudyRecord.load(Path(job.study))
    study = record.open()
    parent = attach_run(record.parent_run, root=Path(record.root))
    name = f"{record.kind} {job.number}"
    tracker = parent.child(name, key=record.trial_key(job.number))
    study.note(job.number, RUN, tracker.run_id)
    folder = record.trial_folder(job.number)
    outcome = folder / OUTCOME_FILE
    if outcome.is_file():
        result = load_record(_result_of, outcome)
    else:
        try:
            result = TrialRun(record, job, study, tracker, oracle).result()
        except Stopped:
            tracker.finish("KILLED")
            raise
        write_json(outcome, asdict(result))
    close(result, study, job.number, tracker)
    for heavy in (*folder.glob("fold_*/checkpoints"), *folder.glob("fold_*/probabilities")):
        shutil.rmtree(heavy, ignore_errors=True)  # the best checkpoint is kept with its run
    said = ", ".join(f"{value:.4f}" for value in result.values) or result.reason
    say(f"{name}: {result.word} {said}")


def load_oracle(module: str) -> Oracle | None:
    """The memory oracle of that module; ``None`` when there is none."""
    if not module:
        return None
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return None


def main() -> None:
    """Run the trial of a record; exit 143 when it was asked to stop and saved."""
    stop_when_parent_ends()
    job = TrialJob.load(Path(sys.argv[1]))
    record = StudyRecord.load(Path(job.study))
    # an earlier process of this trial may still be saving
    lock = FileLock(record.trial_folder(job.number) / ".lock", timeout=PREVIOUS_WAIT_SECONDS)
    try:
        with lock:
            run_trial(job, load_oracle(record.oracle))
    except Stopped:
        sys.exit(STOPPED_EXIT_CODE)
    except (BratsmlError, ResourceError) as error:
        say(f"bratsml: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
