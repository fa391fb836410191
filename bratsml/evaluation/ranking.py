"""Ranking results over cases and regions, as the BraTS challenges do it (Bakas et al. 2018).

For every case, region and metric the results are ranked, 1 for the best, equal scores sharing their
mean rank; a missing score ranks last. A result's rank is the mean over all of these. Whether two
results really differ is told by a permutation test that exchanges their ranks case by case.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from bratsml.errors import DataError
from bratsml.evaluation.compare import HIGHER_IS_BETTER

NUM_PERMUTATIONS = 100_000
_CHUNK = 1000


def case_ranks(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean rank of every result on every case; one row per case, one column per result.

    Args:
        tables: Name to case x region table; the same cases and regions in each.

    Raises:
        DataError: Fewer than two results, or unequal cases.
    """
    if len(tables) < 2:
        raise DataError("ranking", "", "it needs two results or more", "name another run")
    together = pd.concat(
        [table.assign(result=name) for name, table in tables.items()], ignore_index=True
    )
    ranks = []
    for metric, higher in HIGHER_IS_BETTER.items():
        if any(metric not in table for table in tables.values()):
            continue
        scores = together.pivot(index=["case", "region"], columns="result", values=metric)
        if len(scores) * len(tables) != len(together):
            raise DataError("ranking", "", "the results cover other cases", "score the same cases")
        ranks.append(scores.rank(axis=1, ascending=not higher, na_option="bottom"))
    everything = pd.concat(ranks)
    return everything.groupby(level="case").mean()[list(tables)]


def rank_results(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Results by mean rank, the best first: columns ``result``, ``mean_rank``, ``place``."""
    means = case_ranks(tables).mean().sort_values(kind="stable")
    return pd.DataFrame(
        {
            "result": means.index,
            "mean_rank": means.to_numpy(),
            "place": means.rank(method="min").astype(int).to_numpy(),
        }
    )


def permutation_p(tables: Mapping[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Two-sided p that two results' mean ranks differ by chance, for every pair.

    Returns:
        Columns ``first``, ``second``, ``difference`` (mean rank of second minus first) and ``p``,
        which counts the order at hand as one permutation and so is never 0.
    """
    ranks = case_ranks(tables)
    rows = []
    for first, second in combinations(ranks.columns, 2):
        differences = (ranks[second] - ranks[first]).to_numpy()
        rows.append(
            {
                "first": first,
                "second": second,
                "difference": differences.mean(),
                "p": _exchange_p(differences, seed),
            }
        )
    return pd.DataFrame(rows, columns=["first", "second", "difference", "p"])


def _exchange_p(differences: np.ndarray, seed: int) -> float:
    """Share of sign changes per case whose mean is at least as far from 0; all of them if few."""
    count, observed = len(differences), abs(differences.sum()) - 1e-9
    if 2**count <= NUM_PERMUTATIONS:
        bits = np.arange(2**count)[:, None] >> np.arange(count) & 1
        return float((np.abs((1 - 2 * bits) @ differences) >= observed).mean())
    rng = np.random.default_rng(seed)
    extreme = 1
    for _ in range(NUM_PERMUTATIONS // _CHUNK):
        signs = rng.integers(0, 2, (_CHUNK, count)) * 2 - 1
        extreme += int((np.abs(signs @ differences) >= observed).sum())
    return extreme / (NUM_PERMUTATIONS + 1)
