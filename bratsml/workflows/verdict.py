"""A candidate against the configuration it must beat: the comparison of mean Dice, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bratsml.evaluation.compare import compare


def compare_means(
    first: Mapping[str, float],
    second: Mapping[str, float],
    patients: Mapping[str, str] | None,
    *,
    seed: int,
    num_pairs: int = 1,
) -> dict[str, Any]:
    """Compare each case's mean Dice over regions, on the cases that both have.

    Args:
        first, second: Case to mean Dice.
        patients: Case to patient; ``None`` when every case is a patient of its own.
        seed: Of the bootstrap.
        num_pairs: Candidates that are compared with ``first`` in all.

    Returns:
        One row of :func:`bratsml.evaluation.compare.compare`.
    """
    shared = sorted(first.keys() & second.keys())
    one, two = (
        pd.DataFrame({"case": shared, "region": "mean", "dice": [dice[case] for case in shared]})
        for dice in (first, second)
    )
    table = compare(one, two, patients, seed=seed, num_pairs=num_pairs)
    return {str(key): value for key, value in table.to_dict("records")[0].items()}


def verdict_sentence(first: str, second: str, compared: Mapping[str, Any]) -> str:
    """Whether ``second`` is better than ``first``, by how much, on what evidence."""
    difference = compared["difference"]
    evidence = (
        f"95 % interval {compared['low95']:+.4f} to {compared['high95']:+.4f}, "
        f"p {compared['p_corrected']:.2g}, {compared['num_patients']} patients"
    )
    if compared["verdict"] == "second is better":
        return f"{second} is better than {first} by {difference:.4f} ({evidence})"
    if compared["verdict"] == "first is better":
        return f"{first} is better than {second} by {-difference:.4f} ({evidence})"
    if compared["verdict"] == "tie":
        return (
            f"a tie: {second} minus {first} {difference:+.4f} ({evidence}); a difference of "
            f"{compared['smallest_detectable']:.4f} could have been seen"
        )
    return f"too few patients to tell: {second} minus {first} {difference:+.4f} ({evidence})"
