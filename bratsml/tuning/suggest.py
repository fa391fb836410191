"""The nearest settings that fit into a memory budget, found with few predictions.

A prediction takes seconds, so each is made once, and along an ordered list of options (patches,
batches, widths) the first that fits is found by bisection from a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bratsml.errors import ConfigError
from bratsml.tuning.savings import (
    NARROWER,
    SMALLER_PATCH,
    Change,
    Saving,
    apply,
    as_text,
    inference_savings,
    num_voxels,
    patches,
    savings,
)

if TYPE_CHECKING:  # both bring torch
    from bratsml.experiment import Experiment
    from bratsml.tuning.memory import MemoryEstimate, Verdict

Judge = Callable[["Experiment"], "Verdict"]
"""Whether an experiment fits into the budget, and its estimate."""
Listener = Callable[[str], None]
"""Hears of each prediction before it is made."""


@dataclass(frozen=True)
class Suggestion:
    """Settings that fit.

    Attributes:
        change: What to set.
        savings: What it uses, in the field's words.
        cost: What it does to result and time.
        estimate: Its predicted memory.
    """

    change: Change
    savings: tuple[str, ...]
    cost: tuple[str, ...]
    estimate: MemoryEstimate

    @property
    def text(self) -> str:
        """What to type after ``--set``."""
        return as_text(self.change)


@dataclass
class Search:
    """Predictions around one experiment under one budget, each made once.

    Attributes:
        judge: See :data:`Judge`.
        room_mb: What tensors may take under that budget, in MB (1e6 bytes).
        listen: See :data:`Listener`.
    """

    experiment: Experiment
    judge: Judge
    room_mb: float
    listen: Listener = lambda _: None
    _known: dict[str, Verdict | None] = field(default_factory=dict)

    @property
    def num_predictions(self) -> int:
        """Predictions made so far."""
        return len(self._known)

    def verdict(self, change: Change) -> Verdict | None:
        """The verdict on the changed experiment; ``None`` when there is no such experiment."""
        text = as_text(change)
        if text not in self._known:
            self.listen(text)
            try:
                self._known[text] = self.judge(apply(self.experiment, change))
            except ConfigError:
                if not change:
                    raise
                self._known[text] = None
        return self._known[text]

    def fits(self, change: Change) -> bool:
        """Whether the changed experiment exists and fits."""
        verdict = self.verdict(change)
        return verdict is not None and verdict.fits

    def estimate(self, change: Change) -> MemoryEstimate:
        """The prediction for a change that has been found to be valid."""
        verdict = self.verdict(change)
        assert verdict is not None
        return verdict.estimate

    def first_fit(
        self,
        options: Sequence[Change],
        base: Change,
        ordered: bool = True,
        guess: int | None = None,
        enough: Callable[[Change], bool] | None = None,
    ) -> Change | None:
        """The first option that, laid over ``base``, is enough; together with ``base``.

        Args:
            ordered: Each option needs less memory than the one before, so that bisection finds it.
            guess: Where to look first.
            enough: What to look for; that it fits if not given.
        """
        enough = enough or self.fits
        changes = [{**base, **option} for option in options]
        if not ordered:
            return next((change for change in changes if enough(change)), None)
        low, high = -1, len(changes)  # the first is too large, the last small enough
        first = None if guess is None else min(guess, high - 1)
        probe = first
        while high - low > 1:
            middle = probe if probe is not None and low < probe < high else (low + high) // 2
            found = enough(changes[middle])
            # a guess is often right, which its neighbour tells; if not, go on by halves
            probe = middle + (-1 if found else 1) if middle == first else None
            low, high = (low, middle) if found else (middle, high)
        return changes[high] if high < len(changes) else None


def nearest(search: Search) -> list[Suggestion]:
    """Settings near the experiment that fit, those that do least harm to the result first.

    Ways that leave the network's result alone are tried one by one and, when none is enough,
    together. What changes the result is tried on top of all of these if it has to be, else alone.

    Returns:
        Empty when the experiment fits as it is, or nothing does.
    """
    first = search.verdict({})
    assert first is not None
    if first.fits:
        return []
    every = savings(search.experiment)
    base, used = _inference_base(search, *_narrow_enough(search, every))
    if used and search.fits(base):
        return [_suggestion(search, base, used)]
    free = [saving for saving in every if saving.keeps_result]
    harmless = _one_by_one(search, base, used, free) or _together(search, base, used, free)
    if not harmless:
        base, used = _all_of(search, base, used, free)
    others = [_beyond(base, saving) for saving in every if not saving.keeps_result]
    others = [saving for saving in others if saving.options]
    harmful = _one_by_one(search, base, used, others)
    if harmless or harmful:
        return [*harmless, *harmful]
    return _last_resort(search, base, used, others)


def largest_patch(search: Search, base: Change | None = None) -> Suggestion | None:
    """The largest patch of the experiment's proportions that fits, all else as it is.

    Args:
        base: Set beside the patch.

    Returns:
        ``None`` when not even the smallest fits.
    """
    options = list(reversed(patches(search.experiment)))
    start = search.verdict(base or {})
    if start is None:
        return None
    if parameters_mb(start.estimate) > search.room_mb:
        return None
    found = search.first_fit(options, base or {}, guess=_guess(search, options, start.estimate))
    if found is None:
        return None
    return Suggestion(found, ("largest patch",), (), search.estimate(found))


def is_longest(search: Search, patch: Suggestion) -> bool:
    """Whether a patch is the largest that is looked at, so that larger ones may fit too."""
    return patch.change["loader.patch"] == patches(search.experiment)[-1]["loader.patch"]


def every_free_saving(search: Search) -> Change:
    """What leaves the result alone and saves most, together: recompute, lean attention.

    Batches are left as they are.
    """
    base: Change = {}
    for saving in savings(search.experiment):
        if saving.keeps_result and "loader.batch_size" not in saving.options[0]:
            base = _leanest(search, saving, base)
    return base


def parameters_mb(estimate: MemoryEstimate) -> float:
    """What training needs whatever the patch: weights, their gradients, the optimizer's state."""
    return estimate.weights_mb + estimate.gradients_mb + estimate.optimizer_mb


def _one_by_one(
    search: Search, base: Change, used: tuple[Saving, ...], ways: Sequence[Saving]
) -> list[Suggestion]:
    found = []
    for saving in ways:
        guess = None
        if saving.name == SMALLER_PATCH:
            start = search.verdict(base)
            guess = None if start is None else _guess(search, saving.options, start.estimate)
        change = search.first_fit(saving.options, base, saving.ordered, guess)
        if change is not None:
            found.append(_suggestion(search, change, (*used, saving)))
    return found


def _together(
    search: Search, base: Change, used: tuple[Saving, ...], ways: Sequence[Saving]
) -> list[Suggestion]:
    """Ways used one after the other until it fits; of the last one no more than it takes."""
    for saving in ways:
        change = search.first_fit(saving.options, base, saving.ordered)
        if change is not None:
            return [_suggestion(search, change, (*used, saving))]
        base, used = _all_of(search, base, used, [saving])
    return []


def _all_of(
    search: Search, base: Change, used: tuple[Saving, ...], ways: Sequence[Saving]
) -> tuple[Change, tuple[Saving, ...]]:
    """Every way as far as it goes, without those that save nothing."""
    for saving in ways:
        leaner = _leanest(search, saving, base)
        if leaner != base:
            base, used = leaner, (*used, saving)
    return base, used


def _last_resort(
    search: Search, base: Change, used: tuple[Saving, ...], ways: Sequence[Saving]
) -> list[Suggestion]:
    """Several harmful ways at once, the network's width last."""
    patch = [saving for saving in ways if saving.name == SMALLER_PATCH]
    width = [saving for saving in ways if saving.name == NARROWER]
    base, used = _all_of(search, base, used, [w for w in ways if w not in (*patch, *width)])
    if found := _one_by_one(search, base, used, [*patch, *width]):
        return found[:1]
    for saving in width:
        for option in saving.options:
            narrower = {**base, **option}
            if found := _one_by_one(search, narrower, (*used, saving), patch):
                return found
    return []


def _narrow_enough(search: Search, ways: Sequence[Saving]) -> tuple[Change, tuple[Saving, ...]]:
    """The widest network whose parameters alone fit; empty if those of the experiment do."""

    def enough(change: Change) -> bool:
        verdict = search.verdict(change)
        return verdict is not None and parameters_mb(verdict.estimate) <= search.room_mb

    if enough({}):
        return {}, ()
    for saving in ways:
        if saving.name == NARROWER:
            found = search.first_fit(saving.options, {}, enough=enough)
            return found or saving.options[-1], (saving,)
    return {}, ()


def _beyond(base: Change, saving: Saving) -> Saving:
    """The saving without the options up to the one that ``base`` uses."""
    for place, option in enumerate(saving.options):
        if option.items() <= base.items():
            return replace(saving, options=saving.options[place + 1 :])
    return saving


def _inference_base(
    search: Search, base: Change, used: tuple[Saving, ...]
) -> tuple[Change, tuple[Saving, ...]]:
    """What makes sliding-window inference fit, or comes nearest to it; as it was if it does."""

    def enough(change: Change) -> bool:
        verdict = search.verdict(change)
        return verdict is not None and verdict.estimate.inference_peak_mb <= search.room_mb

    if enough(base):
        return base, used
    for saving in inference_savings(search.experiment):
        used = (*used, saving)
        found = search.first_fit(saving.options, base, enough=enough)
        if found is not None:
            return found, used
        base = {**base, **saving.options[-1]}
    return base, used


def _leanest(search: Search, saving: Saving, base: Change) -> Change:
    """``base`` with the option that needs least; ``base`` itself when none is less."""
    options = saving.options[-1:] if saving.ordered else saving.options
    changes = [{**base, **option} for option in options]
    known = [change for change in (base, *changes) if search.verdict(change) is not None]
    return min(known, key=lambda change: search.estimate(change).peak_mb, default=base)


def _guess(search: Search, options: Sequence[Change], start: MemoryEstimate) -> int:
    """The first patch that fits if activations grow with the voxels and nothing else does."""
    patch = search.experiment.loader.patch
    fixed = parameters_mb(start)
    growing = max(start.peak_mb, start.inference_peak_mb) - fixed
    per_voxel = growing / num_voxels({"loader.patch": patch})
    for place, option in enumerate(options):
        if fixed + per_voxel * num_voxels(option) <= search.room_mb:
            return place
    return len(options) - 1


def _suggestion(search: Search, change: Change, used: Sequence[Saving]) -> Suggestion:
    return Suggestion(
        change,
        tuple(dict.fromkeys(saving.name for saving in used)),
        tuple(dict.fromkeys(saving.cost for saving in used)),
        search.estimate(change),
    )
