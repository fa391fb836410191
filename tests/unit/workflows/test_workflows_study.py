"""Studies without training: what is typed, what a trial makes of trouble, what the end says."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from bratsml.config import with_overrides
from bratsml.errors import ConfigError, DataError, ResourceError
from bratsml.experiment import Experiment
from bratsml.tracking.tracker import NullTracker
from bratsml.training.loop import Diverged
from bratsml.tuning.space import Choice, LogUniform, Space
from bratsml.workflows import study_trial
from bratsml.workflows.study_hooks import Pruned, ReportHook
from bratsml.workflows.study_outcome import close
from bratsml.workflows.study_plan import Budget, Smaller, StudyPlan, parse
from bratsml.workflows.study_record import StudyRecord, TrialJob
from bratsml.workflows.study_setup import check_smallest
from bratsml.workflows.study_trial import Stopped, TrialRun, ran_out_of_memory
from bratsml.workflows.study_verdict import candidates, decide, rerun_points, tuned_yaml

SPACE = Space(dimensions={"optim.lr": LogUniform(low=1e-5, high=1e-1)})
PLAN = StudyPlan(
    name="s",
    base="unet",
    space=SPACE,
    changes={"train": {"epochs": 9}},
    phantom=Smaller(changes={"train": {"epochs": 2}}, budget=Budget(trials=3, vram_gb=0.5)),
)


def test_without_data_the_plan_becomes_the_small_one() -> None:
    plan, options = parse(PLAN, [])
    assert plan.name == "s-phantom"
    assert plan.changes == {"train": {"epochs": 2}}
    assert (plan.budget.trials, plan.budget.vram_gb) == (3, 0.5)
    assert options.workers in (1, 2)
    assert (options.new, options.data) == (False, "")


def test_what_is_typed_wins_over_the_plan() -> None:
    typed = ["--data", "d", "--trials", "7", "--hours", "1.5", "--vram-gb", "6GB", "--folds", "2"]
    plan, options = parse(PLAN, [*typed, "--workers", "3", "--new", "--multi-objective"])
    assert (plan.budget.trials, plan.budget.hours, plan.budget.vram_gb) == (7, 1.5, 6.0)
    assert (plan.folds, options.workers, options.new) == (2, 3, True)
    assert options.multi_objective


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["--trials", "0"], "trials must be a whole number"),
        (["--hours", "soon"], "--hours must be a number above 0, received 'soon'"),
        (["--vram-gb", "-1"], "--vram-gb"),
        (["--workers", "two"], "workers"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(typed: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(PLAN, typed)


# ------------------------------------------------------------------ one trial


@dataclass
class Estimate:
    peak_mb: float
    source: str = "predicted"


class FakeOracle:
    """Knows the peak of every experiment, and notes what it is told."""

    def __init__(self, peak_mb: float = 1000.0, error: Exception | None = None) -> None:
        self.peak_mb, self.error, self.recorded = peak_mb, error, 0

    def check_budget(self, experiment: Experiment, budget_gb: float) -> Any:
        if self.error:
            raise self.error
        fits = self.peak_mb <= budget_gb * 1000
        return SimpleNamespace(
            fits=fits, estimate=Estimate(self.peak_mb), reason=f"needs {self.peak_mb:.0f} MB"
        )

    def record_out_of_memory(self, experiment: Experiment, budget_gb: float) -> None:
        self.recorded += 1


class Recorder(NullTracker):
    """Keeps tags, metrics and status."""

    run_id = "run"

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.metrics: dict[str, float] = {}
        self.status = ""

    def set_tags(self, tags) -> None:
        self.tags |= tags

    def log_metrics(self, metrics, step: int) -> None:
        self.metrics |= metrics

    def finish(self, status) -> None:
        self.status = status


class FakeStudy:
    """Remembers what it is told."""

    is_single = True

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.reports: dict[int, float] = {}
        self.prune = False

    def tell(self, number: int, result) -> None:
        self.told.append(result)

    def report(self, number: int, step: int, value: float) -> None:
        self.reports.setdefault(step, value)

    def should_prune(self, number: int) -> bool:
        return self.prune

    def best_cases(self) -> dict[str, float]:
        return {f"c{i}": 0.9 for i in range(8)}


def record(tmp_path: Path, **changes: Any) -> StudyRecord:
    tree = {
        "name": "s",
        "root": str(tmp_path),
        "folder": str(tmp_path),
        "parent_run": "p",
        "store": str(tmp_path),
        "split": {},
        "experiment": Experiment().tree(),
        "space": SPACE.tree(),
        "trials": 3,
        "vram_gb": 8.0,
        **changes,
    }
    return StudyRecord(**tree)


def trial(tmp_path: Path, oracle: FakeOracle | None = None, **changes: Any) -> TrialRun:
    job = TrialJob(study="", number=0, params={"optim.lr": 0.01})
    study: Any = FakeStudy()
    return TrialRun(record(tmp_path, **changes), job, study, Recorder(), oracle)


def failing_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def train(self: TrialRun, experiment: Experiment) -> tuple[float, ...]:
        raise error

    monkeypatch.setattr(TrialRun, "_train_folds", train)


def test_what_does_not_fit_is_pruned_before_training_with_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_with(monkeypatch, AssertionError("trained"))
    run = trial(tmp_path, FakeOracle(9000.0))
    result = run.result()
    assert result.word == "infeasible"
    assert result.constraint_gb == pytest.approx(1.0)
    assert "needs 9000 MB" in result.reason
    assert run.tracker.metrics["memory/peak_mb"] == 9000.0
    close(result, run.study, 0, run.tracker)
    assert run.tracker.status == "KILLED"
    assert run.tracker.tags["PRUNED"].startswith("infeasible")
    assert run.study.told == [result]


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_out_of_memory_all_the_same_is_infeasible_and_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing_with(monkeypatch, error)
    oracle = FakeOracle(7000.0)
    result = trial(tmp_path, oracle).result()
    assert result.word == "infeasible"
    assert result.constraint_gb > 0
    assert oracle.recorded == 1


def test_out_of_memory_is_seen_behind_the_sentence_of_the_loop() -> None:
    error = ResourceError("the GPU's memory ran out")
    error.__cause__ = torch.cuda.OutOfMemoryError("CUDA out of memory")
    assert ran_out_of_memory(error)
    assert not ran_out_of_memory(ResourceError("no space left to write last.pt"))


@pytest.mark.parametrize(
    ("error", "word", "status"),
    [
        (Pruned("behind"), "pruned", "KILLED"),
        (Diverged("loss not finite"), "diverged", "KILLED"),
        (DataError("c", "", "bad", "mend"), "failed", "FAILED"),
        (ZeroDivisionError("bug"), "failed", "FAILED"),
    ],
)
def test_every_other_trouble_has_its_word_and_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, word: str, status: str
) -> None:
    failing_with(monkeypatch, error)
    run = trial(tmp_path, FakeOracle())
    result = run.result()
    assert result.word == word
    assert result.constraint_gb == 0.0 or result.constraint_gb < 0  # it did fit
    close(result, run.study, 0, run.tracker)
    assert run.tracker.status == status
    assert ("PRUNED" in run.tracker.tags) == (status == "KILLED")


def test_a_request_to_stop_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_with(monkeypatch, Stopped())
    with pytest.raises(Stopped):
        trial(tmp_path).result()


def test_an_oracle_that_breaks_does_not_break_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrialRun, "_train_folds", lambda self, experiment: (0.5,))
    run = trial(tmp_path, FakeOracle(error=RuntimeError("no trace")))
    assert run.result().word == "complete"
    assert "no trace" in run.tracker.tags["bratsml.oracle"]


def test_a_trial_clearly_worse_case_by_case_ends_between_folds(tmp_path: Path) -> None:
    run = trial(tmp_path, folds=2)
    rows = [{"case": f"c{i}", "region": "WT", "dice": 0.5 - i / 100} for i in range(8)]
    with pytest.raises(Pruned, match="1 of 2 folds"):
        run._prune_by_cases([pd.DataFrame(rows)])


def test_a_budget_no_point_fits_is_refused_before_work() -> None:
    plan = PLAN.model_copy(
        update={"space": Space(dimensions={"model.res_units": Choice(values=(2, 1))})}
    )
    with pytest.raises(ConfigError, match=r"8 GB is below what any point.*res_units=1"):
        check_smallest(plan, Experiment(), FakeOracle(9000.0))
    check_smallest(plan, Experiment(), FakeOracle(7000.0))
    check_smallest(plan, Experiment(), None)
    check_smallest(plan, Experiment(), FakeOracle(error=RuntimeError("no trace")))


# ------------------------------------------------------------------- reports


def hook(study: FakeStudy, before: list[float], fold: int, history: list[dict]) -> ReportHook:
    checkpoints = SimpleNamespace(has_last=bool(history), last_path=history)
    experiment = with_overrides(Experiment(), {"train": {"epochs": 4}})
    work: Any = SimpleNamespace(experiment=experiment, fold=fold, checkpoints=checkpoints)
    return ReportHook(study, 0, work, before)


def test_reports_count_epochs_over_folds_and_average_them() -> None:
    study: Any = FakeStudy()
    hook(study, [0.8], 1, []).on_epoch_end(1, 4, {"val/dice/mean": 0.4})
    assert study.reports == {6: pytest.approx(0.6)}  # epoch 2 of the second fold of 4 epochs


def test_pruning_ends_a_training_but_never_in_its_last_epoch() -> None:
    study: Any = FakeStudy()
    study.prune = True
    listener = hook(study, [], 0, [])
    listener.on_epoch_end(0, 4, {"train/loss": 1.0})  # not validated: nothing to judge by
    listener.on_epoch_end(3, 4, {"val/dice/mean": 0.1})
    with pytest.raises(Pruned, match=r"epoch 2 of fold 0.*0.1000"):
        listener.on_epoch_end(1, 4, {"val/dice/mean": 0.1})


def test_a_resumed_training_reports_what_was_saved_but_not_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bratsml.workflows import study_hooks

    history = [{"val/dice/mean": 0.1}, {"train/loss": 1.0}, {"val/dice/mean": 0.3}]
    monkeypatch.setattr(study_hooks, "load_checkpoint", lambda path: {"history": path})
    study: Any = FakeStudy()
    hook(study, [], 0, history).on_fit_start(3, 4, 1)
    assert study.reports == {1: 0.1, 3: 0.3}


def test_a_busy_storage_does_not_end_a_training() -> None:
    study: Any = FakeStudy()

    def away(*_: Any) -> None:
        raise ResourceError("the study storage is busy")

    study.report = away
    hook(study, [], 0, []).on_epoch_end(0, 4, {"val/dice/mean": 0.1})


# ------------------------------------------------------------------- verdict


def fake_trial(number: int, params: dict, dice: float, cases: dict | None = None) -> Any:
    return SimpleNamespace(
        number=number,
        params=params,
        values=[dice],
        state=SimpleNamespace(name="COMPLETE"),
        user_attrs={"dice_by_case": cases or {}},
    )


def test_candidates_are_the_default_and_the_best_at_other_points() -> None:
    default = {"lr": 1}
    trials = [
        fake_trial(0, default, 0.9),
        fake_trial(1, {"lr": 2}, 0.7),
        fake_trial(2, {"lr": 3}, 0.8),
        fake_trial(3, {"lr": 3}, 0.75),
        fake_trial(4, {"lr": 4}, 0.1),
    ]
    found = candidates(trials, default, 2)
    assert [c.name for c in found] == ["default", "trial 2", "trial 1"]
    assert len({point["seed"] for point in rerun_points(found, 0, 2)}) == 2
    assert len(rerun_points(found, 0, 2)) == 6


def verdict_of(gain: float, spread: float, num_cases: int = 30) -> Any:
    default, tuned = {"lr": 1.0}, {"lr": 2.0}
    found = candidates([fake_trial(3, tuned, 0.9)], default, 1)
    rng = np.random.default_rng(0)
    cases = {f"c{i}": 0.5 for i in range(num_cases)}
    better = {case: 0.5 + gain + spread * rng.standard_normal() for case in cases}
    reruns: Any = SimpleNamespace(
        trials=lambda: [
            fake_trial(0, {**default, "seed": 1000}, 0.5, cases),
            fake_trial(1, {**tuned, "seed": 1000}, 0.6, better),
        ]
    )
    return decide(found, reruns, seed=0)


def test_a_clear_gain_is_better_and_noise_is_a_tie() -> None:
    clear = verdict_of(0.1, 0.01)
    assert clear.is_better
    assert clear.sentence.startswith("trial 3 is better than the default by 0.09")
    tie = verdict_of(0.001, 0.1)
    assert not tie.is_better
    assert tie.sentence.startswith("a tie: trial 3")
    worse = verdict_of(-0.1, 0.01)
    assert worse.sentence.startswith("the default is better than trial 3 by 0.10")


def test_five_patients_are_too_few_whatever_they_show() -> None:
    few = verdict_of(0.5, 0.01, num_cases=5)
    assert not few.is_better
    assert few.sentence.startswith("too few patients to tell: trial 3")


def test_without_the_defaults_rerun_there_is_no_verdict() -> None:
    found = candidates([fake_trial(3, {"lr": 2.0}, 0.9)], {"lr": 1.0}, 1)
    reruns: Any = SimpleNamespace(trials=lambda: [])
    assert decide(found, reruns, 0).sentence.startswith("no verdict")


def test_the_winner_is_an_experiment_file_over_its_base() -> None:
    text = tuned_yaml("unet", {"train": {"epochs": 5}}, {"optim": {"lr": 0.01}}, ["why"])
    assert text.startswith("# why\n")
    tree = yaml.safe_load(text)
    assert tree == {"base": "unet", "train": {"epochs": 5}, "optim": {"lr": 0.01}}


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    kept = record(tmp_path)
    assert StudyRecord.load(kept.save()) == kept
    assert "postgresql" not in json.dumps(kept.tree())
    assert study_trial.load_oracle("bratsml.no_such_module") is None


def test_a_worker_stays_small() -> None:
    # torch would cost each worker some 300 MB and seconds at its start
    check = "import sys, bratsml.workflows.study_worker as _; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
