"""Which members are worth their time: subsets, and those that no other beats on both counts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from bratsml.ensembling.fit import CaseSums, soft_dice

ALL_SUBSETS_UP_TO = 5
"""Members of which every subset is scored: 31. Of more, the greedy order is followed."""

Subset = tuple[int, ...]


def subsets_to_score(cases: Sequence[CaseSums]) -> list[Subset]:
    """Subsets of the members, smaller ones first: all of them, or a greedy chain.

    The chain starts from every single member and then, from the best one, adds the member whose
    equal-weight mean with those before has the highest mean soft Dice over cases and regions. It
    needs no second look at a voxel.
    """
    members = len(cases[0].overlaps[0])
    if members <= ALL_SUBSETS_UP_TO:
        return [s for count in range(1, members + 1) for s in combinations(range(members), count)]
    chain: list[Subset] = []
    chosen: Subset = ()
    while len(chosen) < members:
        wider = [tuple(sorted((*chosen, m))) for m in range(members) if m not in chosen]
        chosen = max(wider, key=lambda subset: _score(cases, subset))
        chain.append(chosen)
    singles: list[Subset] = [(member,) for member in range(members)]
    return singles + chain[1:]


def on_front(cost: Sequence[float], score: Sequence[float]) -> list[bool]:
    """Whether no other has at most this cost and at least this score, and one of them better.

    Args:
        cost: Lower is better; NaN is never on the front.
        score: Higher is better; NaN is never on the front.
    """
    costs, scores = np.asarray(cost, dtype=float), np.asarray(score, dtype=float)
    known = ~(np.isnan(costs) | np.isnan(scores))
    return [
        bool(known[i])
        and not bool(
            (
                known
                & (costs <= costs[i])
                & (scores >= scores[i])
                & ((costs < costs[i]) | (scores > scores[i]))
            ).any()
        )
        for i in range(len(costs))
    ]


def pareto_table(
    subsets: Sequence[Subset],
    names: Sequence[str],
    dice: Sequence[float],
    seconds: Sequence[float],
    networks: Sequence[int],
) -> pd.DataFrame:
    """One row per subset: members, their number, networks, seconds per case, mean Dice, fronts.

    Args:
        names, seconds, networks: Of every member.
        dice: Of every subset.
    """
    table = pd.DataFrame(
        {
            "members": [" + ".join(names[m] for m in subset) for subset in subsets],
            "num_models": [len(subset) for subset in subsets],
            "num_networks": [sum(networks[m] for m in subset) for subset in subsets],
            "seconds_per_case": [float(sum(seconds[m] for m in subset)) for subset in subsets],
            "dice": list(dice),
        }
    )
    for cost, front in (
        ("num_models", "best_for_models"),
        ("seconds_per_case", "best_for_seconds"),
    ):
        table[front] = on_front(table[cost].tolist(), table["dice"].tolist())
    return table


def _score(cases: Sequence[CaseSums], subset: Subset) -> float:
    part = [case.of(subset) for case in cases]
    equal = np.full((len(subset), part[0].true.size), 1 / len(subset))
    return float(soft_dice(part, equal).mean())
