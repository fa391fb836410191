"""One study that several processes, perhaps on several machines, work on.

A trial is *claimed* by a worker, told its result, or *returned* to the queue when its worker is
gone; a returned trial keeps its number, its point and what it has reported, so nothing is tried
twice under two numbers. Claims and returns happen under the storage's lock, so a trial belongs to
one worker at a time and the number of trials is exact.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from bratsml.config import flatten
from bratsml.errors import ConfigError
from bratsml.tuning.settings import DIRECTIONS, Objective, PrunerConfig, SamplerConfig
from bratsml.tuning.space import Space
from bratsml.tuning.storage import StudyStorage

OWNER, BEAT, RUN, REASON, VERDICT, DEATHS = "owner", "beat", "run_id", "reason", "outcome", "deaths"
CASES, MEMORY = "dice_by_case", "memory"
UID, IDENTITY = "uid", "identity"
SILENT_SECONDS = 300.0
"""A worker on another machine is gone when its beat has not changed for that long."""
HOPELESS_FAILURES = 3
"""A study whose first trials all fail is stopped: the fault is not in their settings."""

Word = Literal["complete", "pruned", "infeasible", "diverged", "failed"]
IsAlive = Callable[[Mapping[str, str]], bool | None]
"""Whether the process named by those tags works; ``None`` when that cannot be seen from here."""

logging.getLogger("optuna").setLevel(logging.WARNING)
warnings.filterwarnings("ignore", category=ExperimentalWarning, module="optuna")


@dataclass(frozen=True)
class Result:
    """How a trial ended.

    Attributes:
        word: ``infeasible`` and ``diverged`` are pruned trials with a reason of their own.
        values: One per objective when complete.
        constraint_gb: Memory above the budget; positive when infeasible, else 0 or below.
    """

    word: Word
    reason: str = ""
    values: tuple[float, ...] = ()
    constraint_gb: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A trial that now belongs to the caller."""

    number: int
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Counts:
    """Trials by state; ``queued`` holds those begun and returned as well as those not begun."""

    queued: int = 0
    running: int = 0
    complete: int = 0
    pruned: int = 0
    failed: int = 0

    @property
    def ended(self) -> int:
        """Trials that will not change any more."""
        return self.complete + self.pruned + self.failed


class SharedStudy:
    """See the module; made by :meth:`create` once and opened by :meth:`load` in every process."""

    def __init__(self, storage: StudyStorage, study: optuna.Study, space: Space) -> None:
        self.storage, self.study, self.space = storage, study, space
        self._database = storage.connect()
        self._beats: dict[int, tuple[int, float]] = {}

    @classmethod
    def create(
        cls,
        storage: StudyStorage,
        name: str,
        space: Space,
        objectives: Sequence[Objective],
        identity: Mapping[str, Any],
        queue: Sequence[Mapping[str, Any]] = (),
    ) -> SharedStudy:
        """The study of that name, made if it is not there.

        Args:
            identity: What all trials of a study must share; compared with that of a study found.
            queue: Points tried first, in order.

        Raises:
            ConfigError: A study of another identity has that name.
            ResourceError: The storage cannot be used.
        """
        database = storage.connect()
        with storage.lock(), storage.in_plain_words():
            study = optuna.create_study(
                storage=database,
                study_name=name,
                directions=[DIRECTIONS[objective] for objective in objectives],
                load_if_exists=True,
            )
            if UID not in study.user_attrs:  # fresh, or its maker was killed half-way
                if not study.get_trials(deepcopy=False):
                    for point in queue:
                        study.enqueue_trial(dict(point))
                study.set_user_attr(IDENTITY, dict(identity))
                study.set_user_attr(UID, uuid.uuid4().hex)
            _require_same(name, study.user_attrs[IDENTITY], identity)
        return cls(storage, study, space)

    @classmethod
    def load(
        cls,
        storage: StudyStorage,
        name: str,
        space: Space,
        pruner: PrunerConfig | None = None,
        num_steps: int = 1,
    ) -> SharedStudy:
        """The study of that name as a worker or a trial needs it."""
        database = storage.connect()
        with storage.in_plain_words():
            study = optuna.load_study(
                storage=database,
                study_name=name,
                sampler=SamplerConfig(kind="random").build(0),
                pruner=(pruner or PrunerConfig(kind="none")).build(num_steps),
            )
        return cls(storage, study, space)

    @staticmethod
    def names(storage: StudyStorage) -> list[str]:
        """Names of all studies in a storage."""
        database = storage.connect()
        with storage.in_plain_words():
            return optuna.study.get_all_study_names(database)

    def keep(self, name: str, value: Any) -> None:
        """Keep something about the study, as JSON."""
        with self.storage.in_plain_words():
            self.study.set_user_attr(name, value)

    def kept(self, name: str, default: Any = None) -> Any:
        """What :meth:`keep` kept."""
        with self.storage.in_plain_words():
            return self.study.user_attrs.get(name, default)

    @property
    def uid(self) -> str:
        """Told apart from an earlier study of the same name in another storage."""
        return str(self.study.user_attrs[UID])

    @property
    def is_single(self) -> bool:
        """Whether there is one objective; only then can trials be pruned by their reports."""
        return len(self.study.directions) == 1

    # ------------------------------------------------------------------ claims

    def claim(
        self,
        owner: Mapping[str, str],
        is_alive: IsAlive,
        sampler: SamplerConfig,
        seed: int,
        most_trials: int,
        deadline: float | None = None,
    ) -> Claim | Literal["wait", "done"]:
        """Take the next trial: one returned to the queue, or a new point while there is budget.

        Args:
            owner: Names the process that takes it.
            seed: With the number of trials so far it decides a new point.
            deadline: Unix time after which nothing new is begun; what was begun is finished.

        Returns:
            ``wait`` when there is nothing to take while others still run (one of them may be
            returned), ``done`` when there is nothing left.
        """
        with self.storage.lock(), self.storage.in_plain_words():
            self._return_stale(is_alive)
            trials = self._trials()
            if self._is_hopeless(trials):
                return "done"
            waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
            late = deadline is not None and time.time() > deadline
            if late:
                waiting = [trial for trial in waiting if OWNER in trial.user_attrs]
            if not waiting and (late or len(trials) >= most_trials):
                running = any(trial.state == TrialState.RUNNING for trial in trials)
                return "wait" if running else "done"
            self.study.sampler = sampler.build(seed + len(trials))
            trial = self.study.ask(self.space.distributions())
            trial.set_user_attr(OWNER, dict(owner))
            return Claim(trial.number, dict(trial.params))

    def return_to_queue(self, number: int) -> None:
        """Give a claimed trial back, e.g. because its worker was asked to stop."""
        with self.storage.lock(), self.storage.in_plain_words():
            if self._trial(number).state == TrialState.RUNNING:
                self._database.set_trial_state_values(self._id(number), TrialState.WAITING)

    def return_stale(self, is_alive: IsAlive) -> list[int]:
        """Give back every running trial whose worker is gone; returns their numbers."""
        with self.storage.lock(), self.storage.in_plain_words():
            return self._return_stale(is_alive)

    def _return_stale(self, is_alive: IsAlive) -> list[int]:
        stale = []
        for trial in self._trials():
            if trial.state == TrialState.RUNNING and self._is_stale(trial, is_alive):
                self._database.set_trial_state_values(self._id(trial.number), TrialState.WAITING)
                stale.append(trial.number)
        return stale

    def _is_stale(self, trial: FrozenTrial, is_alive: IsAlive) -> bool:
        owner = trial.user_attrs.get(OWNER)
        if owner is None:  # killed while claiming: under the lock nobody else can be doing that
            return True
        alive = is_alive(owner)
        if alive is not None:
            return not alive
        beat = int(trial.user_attrs.get(BEAT, 0))
        known, since = self._beats.get(trial.number, (-1, 0.0))
        if beat != known:  # clocks of two machines differ; that the beat changes is enough
            self._beats[trial.number] = (beat, time.monotonic())
            return False
        return time.monotonic() - since > SILENT_SECONDS

    @staticmethod
    def _is_hopeless(trials: Sequence[FrozenTrial]) -> bool:
        ended = [trial for trial in trials if trial.state.is_finished()]
        return len(ended) >= HOPELESS_FAILURES and all(t.state == TrialState.FAIL for t in ended)

    # ------------------------------------------------------------- one trial

    def beat(self, number: int) -> None:
        """Show other machines that the trial's worker lives."""
        beats = int(self._trial(number).user_attrs.get(BEAT, 0))
        self.note(number, BEAT, beats + 1)

    def note(self, number: int, name: str, value: Any) -> None:
        """Keep something about a trial, as JSON; one that has ended stays as it is."""
        with self.storage.in_plain_words(), contextlib.suppress(UpdateFinishedTrialError):
            self._database.set_trial_user_attr(self._id(number), name, value)

    def noted(self, number: int, name: str, default: Any = None) -> Any:
        """What :meth:`note` kept."""
        with self.storage.in_plain_words():
            return self._trial(number).user_attrs.get(name, default)

    def report(self, number: int, step: int, value: float) -> None:
        """Report the objective as estimated so far; a step reported before is left as it was."""
        with self.storage.in_plain_words(), contextlib.suppress(UpdateFinishedTrialError):
            if step not in self._trial(number).intermediate_values:
                self._database.set_trial_intermediate_value(self._id(number), step, float(value))

    def should_prune(self, number: int) -> bool:
        """Whether the pruner gives the trial up; never with several objectives."""
        if not self.is_single:
            return False
        with self.storage.in_plain_words():
            return self.study.pruner.prune(self.study, self._trial(number))

    def best_cases(self) -> dict[str, float]:
        """Dice by case of the best complete trial; empty before there is one."""
        with self.storage.in_plain_words():
            complete = [t for t in self._trials() if t.state == TrialState.COMPLETE]
        best = max(complete, key=lambda trial: trial.values[0], default=None)
        return {} if best is None else dict(best.user_attrs.get(CASES, {}))

    def tell(self, number: int, result: Result) -> None:
        """Record how a trial ended; one that has ended already is left alone."""
        with self.storage.in_plain_words(), contextlib.suppress(UpdateFinishedTrialError):
            if self._trial(number).state.is_finished():
                return
            for name, value in {
                VERDICT: result.word,
                REASON: result.reason,
                **result.attributes,
            }.items():
                self._database.set_trial_user_attr(self._id(number), name, value)
            trial = optuna.trial.Trial(self.study, self._id(number))
            if result.constraint_gb is not None and "memory_gb" not in trial.constraints:
                trial.set_constraint("memory_gb", result.constraint_gb)
            if result.word == "complete":
                self.study.tell(number, list(result.values), skip_if_finished=True)
            else:
                state = TrialState.FAIL if result.word == "failed" else TrialState.PRUNED
                self.study.tell(number, state=state, skip_if_finished=True)

    # --------------------------------------------------------------- overview

    def counts(self) -> Counts:
        """How many trials are in which state."""
        states = [trial.state for trial in self.trials()]
        return Counts(
            queued=states.count(TrialState.WAITING),
            running=states.count(TrialState.RUNNING),
            complete=states.count(TrialState.COMPLETE),
            pruned=states.count(TrialState.PRUNED),
            failed=states.count(TrialState.FAIL),
        )

    @property
    def is_hopeless(self) -> bool:
        """Whether the first trials all failed."""
        return self._is_hopeless(self.trials())

    def trials(self) -> list[FrozenTrial]:
        """Every trial as Optuna holds it."""
        with self.storage.in_plain_words():
            return self._trials()

    def is_complete(self, number: int) -> bool:
        """Whether a trial has a value."""
        return bool(self._trial(number).state == TrialState.COMPLETE)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _trial(self, number: int) -> FrozenTrial:
        return self._database.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        study_id = self._database.get_study_id_from_name(self.study.study_name)
        return self._database.get_trial_id_from_study_id_trial_number(study_id, number)


def _require_same(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, after = flatten(old), flatten(new)
    changed = [
        f"{key}: {before.get(key, '(unset)')} -> {after.get(key, '(unset)')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    if changed:
        more = f" and {len(changed) - 2} more" if len(changed) > 2 else ""
        raise ConfigError(
            f"the study {name!r} holds trials of something else ({'; '.join(changed[:2])}{more}); "
            "start another with --new, or change it back"
        )
