from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest

from bratsml.ensembling.fit import CaseSums, soft_dice
from bratsml.ensembling.pareto import on_front, pareto_table, subsets_to_score


def random_sums(members: int, seed: int = 0) -> CaseSums:
    rng = np.random.default_rng(seed)
    truth = rng.random((1, 200)) < 0.4
    said = np.clip(
        truth + rng.normal(0, np.linspace(0.2, 0.9, members)[:, None], (members, 200)), 0, 1
    )
    return CaseSums(
        f"c{seed}",
        (said @ said.T)[None],
        (said * truth).sum(axis=1)[None],
        np.array([float(truth.sum())]),
    )


def test_all_subsets_of_few_members() -> None:
    assert subsets_to_score([random_sums(3)]) == [
        (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2),
    ]  # fmt: skip
    assert len(subsets_to_score([random_sums(5)])) == 31


def test_a_greedy_chain_of_many_members() -> None:
    cases = [random_sums(7, seed) for seed in range(2)]
    subsets = subsets_to_score(cases)
    assert subsets[:7] == [(m,) for m in range(7)]
    assert [len(s) for s in subsets[7:]] == [2, 3, 4, 5, 6, 7]

    def score(members: tuple[int, ...]) -> float:
        equal = np.full((len(members), 1), 1 / len(members))
        return float(soft_dice([c.of(members) for c in cases], equal)[0])

    best = max(subsets[:7], key=score)
    pairs = [p for p in permutations(range(7), 2) if p[0] == best[0]]
    assert set(subsets[7]) == set(max(pairs, key=score))
    for narrow, wide in pairwise(subsets[7:]):
        assert set(narrow) < set(wide)


def test_the_front_by_hand() -> None:
    #            best cheap, dominated, tie of cost, equal to it, dear and best, unknown
    cost = [1.0, 2.0, 2.0, 2.0, 5.0, np.nan]
    score = [0.5, 0.4, 0.6, 0.6, 0.7, 0.9]
    assert on_front(cost, score) == [True, False, True, True, True, False]
    assert on_front([1.0], [np.nan]) == [False]


def test_the_table_adds_up_seconds_and_networks() -> None:
    table = pareto_table([(0,), (1,), (0, 1)], ["a", "b"], [0.7, 0.8, 0.75], [2.0, 5.0], [3, 5])
    assert table["members"].tolist() == ["a", "b", "a + b"]
    assert table["num_networks"].tolist() == [3, 5, 8]
    assert table["seconds_per_case"].tolist() == pytest.approx([2, 5, 7])
    assert table["best_for_models"].tolist() == [False, True, False]
    assert table["best_for_seconds"].tolist() == [True, True, False]
