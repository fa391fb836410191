"""Giving up between folds: only on clear evidence over the same cases."""

from __future__ import annotations

import math

from bratsml.tuning.pruning import clearly_worse
from bratsml.tuning.settings import PrunerConfig

BEST = {f"c{i}": 0.8 for i in range(10)}


def test_worse_on_every_case_is_clearly_worse() -> None:
    # ten differences of one sign: p = 1 / 2**10, about 0.001
    ours = {case: 0.7 - i / 100 for i, case in enumerate(BEST)}
    assert clearly_worse(ours, BEST, 0.05)
    assert not clearly_worse(ours, BEST, 0.0005)


def test_better_or_mixed_is_not_worse() -> None:
    assert not clearly_worse(dict.fromkeys(BEST, 0.9), BEST, 0.05)
    mixed = {case: 0.8 + (0.1 if i % 2 else -0.11) for i, case in enumerate(BEST)}
    assert not clearly_worse(mixed, BEST, 0.05)


def test_few_pairs_ties_and_missing_cases_decide_nothing() -> None:
    assert not clearly_worse({f"c{i}": 0.1 for i in range(5)}, BEST, 0.05)
    assert not clearly_worse(BEST, BEST, 0.05)
    assert not clearly_worse({f"x{i}": 0.1 for i in range(10)}, BEST, 0.05)
    assert not clearly_worse(dict.fromkeys(BEST, math.nan), BEST, 0.05)
    assert not clearly_worse({}, {}, 0.05)


def test_pruners_are_built_for_the_number_of_reports() -> None:
    for kind in ("hyperband", "median", "none"):
        assert PrunerConfig(kind=kind, warmup_epochs=5).build(2) is not None
