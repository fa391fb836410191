"""Soups: one network whose weights are an average of other networks': arithmetic on weights.

Source: Wortsman et al. 2022 (uniform and greedy soups, and learned ones, whose mixing weights are
fitted there with a gradient). The ingredients must lie in one valley of the loss, as checkpoints of
one training or fine-tunings of one network do; networks trained from different starts do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bratsml.errors import CheckpointError

Kind = Literal["uniform", "greedy", "learned"]
Amounts = tuple[float, ...]
"""One number of at least 0 per ingredient; only their proportions count."""
Weights = Mapping[str, Tensor]
FIRST_STEP, LAST_STEP = 2.0, 0.25
"""Steps of the search for learned weights, in logits: from a factor of e^2 down to e^0.25."""


@dataclass(frozen=True)
class Ingredient:
    """A network to be mixed; its weights are read only when they are needed."""

    name: str
    load: Callable[[], Weights]


@dataclass(frozen=True)
class Trial:
    """A soup that was tried, and whether it was better than all before it."""

    amounts: Amounts
    score: float
    is_kept: bool


@dataclass(frozen=True)
class Choice:
    """What a search settled on, and everything it tried."""

    amounts: Amounts
    trials: tuple[Trial, ...]


def blend(
    ingredients: Sequence[Ingredient], amounts: Amounts, copy_from: int = 0
) -> dict[str, Tensor]:
    """Mean of the ingredients' weights in these proportions, summed in float64 and cast back.

    One ingredient is in memory at a time, whatever their number. Their tensors are only read, and
    the result shares memory with none of them.

    Args:
        copy_from: Ingredient whose whole-number and boolean tensors (step counters, index tables)
            are copied, as their mean would mean nothing.

    Raises:
        CheckpointError: An ingredient has other tensors or shapes than the first, or weights that
            are not finite; names it.
        ValueError: No ingredient, or not one amount of at least 0 for each with a sum above 0.
    """
    total = sum(amounts)
    if len(amounts) != len(ingredients) or not total > 0 or min(amounts) < 0:
        raise ValueError(f"amounts {amounts} do not fit {len(ingredients)} ingredients")
    sums: dict[str, Tensor] = {}
    first: Ingredient | None = None
    kinds: dict[str, Tensor] = {}
    exact: dict[str, Tensor] = {}
    for place, (ingredient, amount) in enumerate(zip(ingredients, amounts, strict=True)):
        if amount == 0 and place != copy_from:
            continue
        weights = ingredient.load()
        if first is None:
            first, kinds = ingredient, {n: value.to("meta") for n, value in weights.items()}
        require_same_form(kinds, weights, first.name, ingredient.name)
        for name, value in weights.items():
            if not value.is_floating_point():
                if place == copy_from:
                    exact[name] = value.detach().cpu().clone()
                continue
            if amount == 0:
                continue
            if not torch.isfinite(value).all():
                raise CheckpointError(
                    f"{ingredient.name} holds NaN or infinite weights ({name}); leave it out"
                )
            term = value.detach().cpu().double() * amount
            sums[name] = sums[name].add_(term) if name in sums else term
    return {
        name: sums[name].div_(total).to(kind.dtype) if kind.is_floating_point() else exact[name]
        for name, kind in kinds.items()
    }


def require_same_form(expected: Weights, weights: Weights, first: str, other: str) -> None:
    """Refuse weights of another architecture.

    Raises:
        CheckpointError: Naming both checkpoints and a tensor in which they differ.
    """
    for name in sorted(expected.keys() | weights.keys()):
        if name not in weights or name not in expected:
            has, lacks = (first, other) if name in expected else (other, first)
            raise CheckpointError(
                f"{other} is of another architecture than {first}: only {has} has the tensor "
                f"{name}, {lacks} has not; leave one of them out"
            )
        ours, theirs = expected[name], weights[name]
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            raise CheckpointError(
                f"{other} is of another architecture than {first}: {name} is {_form(theirs)} "
                f"in one and {_form(ours)} in the other; leave one of them out"
            )


def uniform(num: int) -> Amounts:
    """The same of every ingredient."""
    return (1.0,) * num


def single(num: int, place: int) -> Amounts:
    """One ingredient alone."""
    return tuple(float(index == place) for index in range(num))


def best_single(scores: Sequence[float]) -> int:
    """Place of the best score; of equals the first, and NaN only when all are."""
    return by_score(scores)[0]


def by_score(scores: Sequence[float]) -> list[int]:
    """Places from the best score to the worst; NaN comes last, equals keep their order."""
    filled = [-np.inf if np.isnan(score) else score for score in scores]
    return sorted(range(len(scores)), key=lambda place: (-filled[place], place))


def greedy(scores: Sequence[float], score_of: Callable[[Amounts], float]) -> Choice:
    """Start from the best ingredient, add the others from better to worse, keep what improves.

    An ingredient stays only if the mean with it scores strictly higher than the mean without.

    Args:
        scores: Of every ingredient alone, higher is better.
        score_of: Of a soup, on the cases of ``scores``.
    """
    first, *others = by_score(scores)
    kept, best = single(len(scores), first), scores[first]
    trials = [Trial(kept, best, True)]
    for place in others:
        tried = tuple(max(a, float(index == place)) for index, a in enumerate(kept))
        score = score_of(tried)
        is_better = score > best or (np.isnan(best) and not np.isnan(score))
        trials.append(Trial(tried, score, bool(is_better)))
        if is_better:
            kept, best = tried, score
    return Choice(kept, tuple(trials))


def learned(
    scores: Sequence[float], score_of: Callable[[Amounts], float], evaluations: int
) -> Choice:
    """Convex weights found by a compass search over softmax logits.

    Starts from equal weights. The logit of one ingredient after the other, the best first, is
    raised, and if that does not help lowered, by a step; a round without any gain halves the step.
    The score need not have a gradient (Dice after post-processing has none), and the result is
    never worse than the uniform soup on the cases of the search.

    Args:
        scores: Of every ingredient alone; they only set the order.
        score_of: Of a soup; may be NaN, which is never better.
        evaluations: Calls of ``score_of`` at most, at least one.
    """
    logits = np.zeros(len(scores))
    amounts = softmax(logits)
    best = score_of(amounts)
    trials = [Trial(amounts, best, True)]
    step = FIRST_STEP
    while step >= LAST_STEP and len(trials) < evaluations:
        has_gained = False
        for moved in _moves(logits, by_score(scores), step):
            if len(trials) >= evaluations:
                break
            tried = softmax(moved)
            score = score_of(tried)
            is_better = bool(score > best)
            trials.append(Trial(tried, score, is_better))
            if is_better:
                logits[:], amounts, best, has_gained = moved, tried, score, True
        step = step if has_gained else step / 2
    return Choice(amounts, tuple(trials))


def _moves(logits: np.ndarray, order: Sequence[int], step: float) -> Iterator[np.ndarray]:
    """A step up of every logit in turn, then down unless the caller took the one up."""
    for place in order:
        before = logits.copy()
        for direction in (step, -step):
            moved = before.copy()
            moved[place] += direction
            yield moved
            if not np.array_equal(logits, before):
                break


def softmax(logits: np.ndarray) -> Amounts:
    """Shares that are positive and sum to 1."""
    powers = np.exp(logits - logits.max())
    return tuple(float(share) for share in powers / powers.sum())


def has_running_statistics(model: nn.Module) -> bool:
    """Whether the network has batch norms that normalise with what they gathered in training.

    Instance, group and layer norm gather nothing.
    """
    return any(isinstance(m, _BatchNorm) and m.track_running_stats for m in model.modules())


@torch.no_grad()
def refresh_statistics(
    model: nn.Module,
    images: Iterable[Tensor],
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Gather the statistics of batch norms anew, as the plain mean over the batches given.

    The mean of the ingredients' statistics is not the statistics of their mean. All else stays in
    evaluation mode: dropout is off, no weight changes.

    Args:
        images: Training patches, shape ``(N, C, X, Y, Z)`` each.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean instead of a moving one
        norm.train()
    device = next(model.parameters()).device
    for image in images:
        with autocast():
            model(image.to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def _form(value: Tensor) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
