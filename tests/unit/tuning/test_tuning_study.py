"""Shared studies: a trial has one worker, is never lost and never tried under two numbers."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bratsml.errors import ConfigError, ResourceError
from bratsml.tuning import study as study_module
from bratsml.tuning.figures import study_figures
from bratsml.tuning.settings import PrunerConfig, SamplerConfig
from bratsml.tuning.space import LogUniform, Space
from bratsml.tuning.storage import StudyStorage
from bratsml.tuning.study import Claim, Result, SharedStudy
from bratsml.tuning.table import trials_table

SPACE = Space(dimensions={"optim.lr": LogUniform(low=1e-5, high=1e-1)})
RANDOM = SamplerConfig(kind="random")
ME, GONE, FAR = {"pid": "me"}, {"pid": "gone"}, {"pid": "far"}


def is_alive(owner) -> bool | None:
    return {"me": True, "gone": False, "far": None}[owner["pid"]]


@pytest.fixture(scope="session")
def empty_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("storage") / "studies.db"
    StudyStorage(f"sqlite:///{file}").connect()
    return file


@pytest.fixture
def storage(tmp_path: Path, empty_storage: Path) -> StudyStorage:
    shutil.copy(empty_storage, tmp_path / "studies.db")
    return StudyStorage(f"sqlite:///{tmp_path / 'studies.db'}")


@pytest.fixture
def make(storage: StudyStorage) -> Callable[..., SharedStudy]:
    def create(queue=(), objectives=("dice",), identity=None) -> SharedStudy:
        return SharedStudy.create(storage, "s", SPACE, objectives, identity or {"data": 1}, queue)

    return create


def claim(study: SharedStudy, owner=ME, most: int = 10, **more):
    return study.claim(owner, is_alive, RANDOM, 0, most, **more)


def test_the_queue_comes_first_and_the_budget_is_exact(make) -> None:
    study = make(queue=[{"optim.lr": 1e-3}])
    first, second = claim(study, most=2), claim(study, most=2)
    assert first == Claim(0, {"optim.lr": 1e-3})
    assert second.number == 1
    assert claim(study, most=2) == "wait"  # one of the two may still come back
    for number in (0, 1):
        study.tell(number, Result("complete", values=(0.5,)))
    assert claim(study, most=2) == "done"


def test_a_trial_whose_worker_is_gone_comes_back_with_number_point_and_reports(make) -> None:
    study = make()
    lost = claim(study, GONE)
    study.report(lost.number, 1, 0.25)
    again = claim(study, ME)
    assert (again.number, again.params) == (lost.number, lost.params)
    assert study.trials()[0].intermediate_values == {1: 0.25}
    assert len(study.trials()) == 1


def test_a_trial_killed_while_it_was_claimed_comes_back(make) -> None:
    study = make()
    study.study.ask()  # running, but nobody's yet
    assert claim(study).number == 0


def test_a_worker_elsewhere_is_given_time_to_beat(make, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make()
    claim(study, FAR)
    assert study.return_stale(is_alive) == []
    monkeypatch.setattr(study_module, "SILENT_SECONDS", 0.05)
    time.sleep(0.06)
    study.beat(0)
    assert study.return_stale(is_alive) == []  # it beat meanwhile
    time.sleep(0.06)
    assert study.return_stale(is_alive) == [0]


def test_what_was_begun_ends_after_the_deadline_and_nothing_new_begins(make) -> None:
    study = make(queue=[{"optim.lr": 1e-3}])
    past = time.time() - 1
    assert claim(study, deadline=past) == "done"
    begun = claim(study)
    study.return_to_queue(begun.number)
    assert claim(study, deadline=past).number == begun.number


def test_infeasible_is_pruned_with_its_constraint_and_not_a_failure(make) -> None:
    study = make()
    claim(study)
    study.tell(0, Result("infeasible", "needs 9.1 GB", constraint_gb=1.1))
    trial = study.trials()[0]
    assert trial.state.name == "PRUNED"
    assert trial.constraints == {"memory_gb": 1.1}
    assert study.counts().pruned == 1


def test_a_result_is_told_once(make) -> None:
    study = make()
    claim(study)
    study.tell(0, Result("complete", values=(0.5,)))
    study.tell(0, Result("failed", "too late"))
    study.report(0, 7, 0.1)
    study.beat(0)
    assert study.trials()[0].values == [0.5]
    assert study.counts().complete == 1


def test_several_objectives_are_kept_and_nothing_is_pruned_by_reports(make) -> None:
    study = make(objectives=("dice", "epoch_seconds", "peak_memory_mb"))
    for number, dice in enumerate((0.5, 0.6)):
        claim(study)
        study.report(number, 1, dice)
        assert not study.should_prune(number)
        study.tell(number, Result("complete", values=(dice, 10.0, 500.0)))
    names = [figure.layout.title.text for figure in study_figures(study, OBJECTIVES, 8.0)]
    assert any("Pareto" in str(name) for name in names)


OBJECTIVES = ("dice", "epoch_seconds", "peak_memory_mb")


def test_a_point_behind_the_others_is_pruned(make, storage: StudyStorage) -> None:
    study = make()
    pruner = PrunerConfig(kind="median", startup_trials=1, warmup_epochs=0)
    trial_side = SharedStudy.load(storage, "s", SPACE, pruner, num_steps=4)
    for number, scores in enumerate(((0.5, 0.6), (0.1, 0.1))):
        claim(study)
        for step, score in enumerate(scores):
            trial_side.report(number, step + 1, score)
        if number == 0:
            assert not trial_side.should_prune(0)
            study.tell(0, Result("complete", values=(0.6,)))
    assert trial_side.should_prune(1)


def test_a_study_of_something_else_under_the_same_name_is_refused(make) -> None:
    make(identity={"space": {"low": 1}, "data": 1})
    make(identity={"space": {"low": 1}, "data": 1})
    with pytest.raises(ConfigError, match=r"space.low: 1 -> 2.*--new"):
        make(identity={"space": {"low": 2}, "data": 1})


def test_a_study_whose_first_trials_all_fail_is_given_up(make) -> None:
    study = make()
    for number in range(3):
        assert claim(study).number == number
        study.tell(number, Result("failed", "no such file"))
    assert claim(study) == "done"
    assert study.is_hopeless


def test_the_table_has_a_row_per_trial_with_its_outcome(make) -> None:
    study = make()
    for number in range(3):
        claim(study)
        if number < 2:
            word = ("complete", "infeasible")[number]
            kept = {"memory": {"peak_gb": 3.0}, "run_id": "abc"}
            study.tell(number, Result(word, "why", (0.5,), 0.0, kept))
    table = trials_table(study.trials(), ("dice",))
    assert list(table["outcome"]) == ["complete", "infeasible", "running"]
    assert table["dice"].isna().tolist() == [False, True, True]
    assert table.loc[0, "run_id"] == "abc"
    assert len(study_figures(study, ("dice",), 8.0)) >= 2


def test_the_same_history_leads_to_the_same_next_point(make) -> None:
    study = make()
    point = claim(study).params
    study.study.storage = None  # nothing is kept in this process
    other = SharedStudy.create(StudyStorage(study.storage.url), "t", SPACE, ["dice"], {"data": 1})
    assert claim(other).params == point


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:secret@h/d", "must be sqlite"),
        ("studies.db", "must be sqlite"),
        ("sqlite:////nowhere/at/all/studies.db", "is not there"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused_in_one_sentence(url: str, said: str) -> None:
    with pytest.raises((ConfigError, ResourceError), match=said) as caught:
        StudyStorage(url).connect()
    assert "secret" not in str(caught.value)


def _claim_until_killed(url: str, number_of_trials: int, lag: float) -> None:
    study = SharedStudy.load(StudyStorage(url), "s", SPACE)
    owner = {"pid": str(os.getpid())}

    def alive(tags) -> bool:
        return Path(f"/proc/{tags['pid']}").exists()

    while (taken := study.claim(owner, alive, RANDOM, 0, number_of_trials)) != "done":
        if isinstance(taken, Claim):
            time.sleep(lag)
            study.tell(taken.number, Result("complete", values=(0.5,)))


@pytest.mark.slow
def test_workers_killed_at_any_point_lose_no_trial(make) -> None:
    study = make()
    context = multiprocessing.get_context("fork")

    def start() -> multiprocessing.Process:
        worker = context.Process(target=_claim_until_killed, args=(study.storage.url, 24, 0.05))
        worker.start()
        return worker

    workers = [start() for _ in range(4)]
    for _ in range(6):  # six times a worker dies and another takes its place
        time.sleep(0.15)
        victim = workers.pop(0)
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        workers.append(start())
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    counts = study.counts()
    assert (counts.complete, counts.running, counts.queued, counts.failed) == (24, 0, 0, 0)
