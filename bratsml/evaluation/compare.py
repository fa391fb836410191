"""Two results on the same cases: is their difference more than chance?

The unit is the patient: several visits of one patient say the same thing twice, so their scores are
averaged before anything is counted. Sources: percentile bootstrap (Efron 1979), signed-rank test
(Wilcoxon 1945), correction for many comparisons (Holm 1979), power of the paired t-test (Cohen
1988).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from bratsml.errors import DataError
from bratsml.evaluation.intervals import bootstrap_mean

Verdict = Literal["first is better", "second is better", "tie", "too few to tell"]
HIGHER_IS_BETTER: Mapping[str, bool] = {
    "dice": True,
    "hd95_mm": False,
    "lesion_dice": True,
    "lesion_hd95_mm": False,
}
"""Metrics that are compared, by their column in a case x region table."""

ALPHA = 0.05
POWER = 0.8
FEWEST_PATIENTS = 6
"""With five the smallest p the signed-rank test can give is 2 / 2**5 = 0.06."""

COLUMNS = (
    "metric", "region", "num_patients", "num_left_out", "mean_first", "mean_second", "difference",
    "low95", "high95", "p", "p_corrected", "effect", "wins", "ties", "losses",
    "smallest_detectable", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Paired:
    """Differences of one metric in one region, second minus first, one per patient.

    Attributes:
        first, second, shape ``(num_patients,)``: Scores, none NaN.
        num_left_out: Cases without a score in one of the two.
    """

    metric: str
    region: str
    first: npt.NDArray[np.float64]
    second: npt.NDArray[np.float64]
    num_left_out: int

    @property
    def differences(self) -> npt.NDArray[np.float64]:
        """Second minus first; differences within rounding count as none."""
        differences = self.second - self.first
        differences[np.abs(differences) < 1e-12] = 0.0
        return differences


def paired_scores(
    first: pd.DataFrame, second: pd.DataFrame, patients: Mapping[str, str] | None = None
) -> list[Paired]:
    """Bring two case x region tables together, per metric and region.

    Args:
        first, second: Columns ``case``, ``region`` and at least one metric.
        patients: Case to patient; ``None`` when every case is a patient of its own.

    Raises:
        DataError: Other cases or regions in one than in the other; names some.
    """
    _require_same_cases(first, second)
    paired = []
    for metric in HIGHER_IS_BETTER:
        if metric not in first or metric not in second:
            continue
        for region in dict.fromkeys(first["region"]):
            one, two = (
                table[table["region"] == region].set_index("case")[metric].astype(float)
                for table in (first, second)
            )
            both = pd.DataFrame({"first": one, "second": two})
            scored = both.dropna()
            if patients is not None:
                scored = scored.groupby(lambda case: patients[case]).mean()
            paired.append(
                Paired(
                    metric,
                    str(region),
                    scored["first"].to_numpy(),
                    scored["second"].to_numpy(),
                    len(both) - len(both.dropna()),
                )
            )
    return paired


def compare(
    first: pd.DataFrame,
    second: pd.DataFrame,
    patients: Mapping[str, str] | None = None,
    *,
    seed: int = 0,
    num_pairs: int = 1,
) -> pd.DataFrame:
    """The comparison per metric and region.

    Args:
        first, second, patients: As for :func:`paired_scores`.
        seed: Of the bootstrap.
        num_pairs: Pairs of results compared in all; their p-values are corrected together.

    Returns:
        Columns :data:`COLUMNS`. ``difference`` is second minus first in the metric's unit,
        ``wins`` the patients for whom second is better, ``effect`` the mean difference in standard
        deviations of the differences (Cohen's d_z), ``smallest_detectable`` the mean difference
        that as many patients with this spread show in 80 of 100 studies. Numbers that too few
        patients cannot give are NaN.

    Raises:
        DataError: As :func:`paired_scores`.
    """
    rows = [_row(pair, seed) for pair in paired_scores(first, second, patients)]
    table = pd.DataFrame(rows)
    table["p_corrected"] = holm(table["p"].to_numpy(), num_pairs)
    table["verdict"] = [_verdict(row) for row in table.to_dict("records")]
    return table[list(COLUMNS)]


def holm(p: npt.NDArray[np.float64], num_families: int = 1) -> npt.NDArray[np.float64]:
    """Holm's step-down correction; NaN stays and is not counted.

    Args:
        p: Shape ``(n,)``.
        num_families: As many sets of comparisons like this one are made.
    """
    corrected = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    so_far = 0.0
    for place, index in enumerate(order):
        so_far = max(so_far, (len(order) - place) * num_families * float(p[index]))
        corrected[index] = min(1.0, so_far)
    return corrected


def smallest_detectable(differences: npt.NDArray[np.float64]) -> float:
    """Mean difference that a paired t-test at 5 % finds with a power of 80 %.

    From the spread of the differences at hand; NaN with fewer than two.
    """
    count = len(differences)
    if count < 2:
        return float("nan")
    quantiles = stats.t.ppf([1 - ALPHA / 2, POWER], count - 1)
    return float(quantiles.sum() * differences.std(ddof=1) / np.sqrt(count))


def _row(pair: Paired, seed: int) -> dict[str, object]:
    differences = pair.differences
    better = differences if HIGHER_IS_BETTER[pair.metric] else -differences
    low, high = bootstrap_mean(differences, seed) if len(differences) > 1 else (np.nan, np.nan)
    spread = differences.std(ddof=1) if len(differences) > 1 else 0.0
    return {
        "metric": pair.metric,
        "region": pair.region,
        "num_patients": len(differences),
        "num_left_out": pair.num_left_out,
        "mean_first": _mean(pair.first),
        "mean_second": _mean(pair.second),
        "difference": _mean(differences),
        "low95": low,
        "high95": high,
        "p": signed_rank_p(differences),
        "effect": float(differences.mean() / spread) if spread > 0 else np.nan,
        "wins": int((better > 0).sum()),
        "ties": int((better == 0).sum()),
        "losses": int((better < 0).sum()),
        "smallest_detectable": smallest_detectable(differences),
    }


def signed_rank_p(differences: npt.NDArray[np.float64]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; 1 when nothing differs, NaN with fewer than two.

    Exact up to 50 differing patients without equal amounts, else by the normal approximation.
    """
    if len(differences) < 2:
        return float("nan")
    differing = differences[differences != 0]
    if not len(differing):
        return 1.0
    return float(stats.wilcoxon(differing).pvalue)


def _verdict(row: Mapping[str, float]) -> Verdict:
    """A difference is one only if interval and corrected test agree."""
    if row["num_patients"] < FEWEST_PATIENTS:
        return "too few to tell"
    apart = row["low95"] > 0 or row["high95"] < 0
    if not apart or row["p_corrected"] >= ALPHA:
        return "tie"
    second = (row["difference"] > 0) == HIGHER_IS_BETTER[str(row["metric"])]
    return "second is better" if second else "first is better"


def noise_floor(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """How far means of one configuration lie apart when only the seed differs.

    Args:
        tables: One case x region table per seed, the same cases in each; at least two.

    Returns:
        Columns ``metric``, ``region``, ``num_seeds``, ``mean``, ``spread`` (standard deviation
        between seeds, n - 1) and ``largest_difference`` of any two.

    Raises:
        DataError: Fewer than two tables, or other cases in one of them.
    """
    if len(tables) < 2:
        raise DataError("noise floor", "", "it needs two seeds or more", "run another seed")
    for table in tables[1:]:
        _require_same_cases(tables[0], table)
    rows = []
    for metric in HIGHER_IS_BETTER:
        if any(metric not in table for table in tables):
            continue
        for region in dict.fromkeys(tables[0]["region"]):
            means = np.array([t[t["region"] == region][metric].mean() for t in tables])
            rows.append(
                {
                    "metric": metric,
                    "region": region,
                    "num_seeds": len(means),
                    "mean": means.mean(),
                    "spread": means.std(ddof=1),
                    "largest_difference": np.ptp(means),
                }
            )
    return pd.DataFrame(rows)


def mean_over_seeds(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Per case and region the mean over seeds of every metric; NaN where any seed has none."""
    if len(tables) == 1:
        return tables[0]
    for table in tables[1:]:
        _require_same_cases(tables[0], table)
    keys = ["case", "region"]
    metrics = [metric for metric in HIGHER_IS_BETTER if all(metric in t for t in tables)]
    together = pd.concat([table[keys + metrics] for table in tables])
    means = together.groupby(keys, sort=False)[metrics].agg(lambda v: v.mean(skipna=False))
    others = tables[0].drop(columns=metrics)
    return others.merge(means.reset_index(), on=keys, validate="one_to_one")


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _require_same_cases(first: pd.DataFrame, second: pd.DataFrame) -> None:
    for table in (first, second):
        repeated = table[table.duplicated(["case", "region"])]
        if len(repeated):
            raise DataError(
                str(repeated["case"].iloc[0]), "", "is scored twice in one result", "score it once"
            )
    one, two = (set(zip(t["case"], t["region"], strict=True)) for t in (first, second))
    if one != two:
        only = sorted(one ^ two)
        raise DataError(
            str(only[0][0]),
            "",
            f"{len(only)} case-region pairs are scored in one result and not in the other",
            "compare results on the same cases and regions",
        )
