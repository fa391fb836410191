"""What a network still finds when modalities are missing: its scores over all 15 subsets.

A missing modality is 0 everywhere, as outside the brain, in training
(:class:`bratsml.data.augment.ModalityDropout`) as here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from bratsml.data.cases import MODALITIES
from bratsml.evaluation.compare import Paired, paired_scores
from bratsml.evaluation.intervals import bootstrap_mean

Subset = tuple[str, ...]
"""The modalities that are there, in channel order."""


def subsets_of(modalities: Sequence[str]) -> tuple[Subset, ...]:
    """Every subset but the empty one; all of them first, then by size and in their order."""
    sizes = range(len(modalities), 0, -1)
    return tuple(subset for size in sizes for subset in combinations(modalities, size))


SUBSETS: tuple[Subset, ...] = subsets_of(MODALITIES)
"""Every subset but the empty one; all four first, then by size and channel order."""

COLUMNS = (
    "subset", "num_modalities", "metric", "region", "num_patients", "num_left_out", "mean", "low95",
    "high95", "difference", "difference_low95", "difference_high95",
)  # fmt: skip


def name_of(subset: Subset) -> str:
    """``t1c+t2f`` and so on, as the tables have it."""
    return "+".join(subset)


ALL = name_of(MODALITIES)
"""Name of the subset that lacks nothing."""


def keep_only(image: npt.NDArray[np.generic], subset: Subset) -> npt.NDArray[np.float32]:
    """A copy of an image ``(4, X, Y, Z)`` that is 0 in the modalities outside the subset."""
    kept = np.zeros(image.shape, dtype=np.float32)
    for channel, modality in enumerate(MODALITIES):
        if modality in subset:
            kept[channel] = image[channel]
    return kept


def subset_table(
    scores: pd.DataFrame, patients: Mapping[str, str] | None = None, *, seed: int = 0
) -> pd.DataFrame:
    """Mean score by subset, metric and region, and how far it is from that with all modalities.

    All are those of the largest subset scored: all four, unless the network reads fewer.

    The unit is the patient, visits averaged. A case without a score (NaN), here or with all, is out
    of all numbers of its row and counted in ``num_left_out``.

    Args:
        scores: Case x region rows of every subset, told apart by a column ``subset``.
        patients: Case to patient; ``None`` when every case is a patient of its own.
        seed: Of the bootstrap.

    Returns:
        Columns :data:`COLUMNS`, in the order of :data:`SUBSETS`: the mean and its 95 % interval,
        and the mean difference to all with its own; NaN where no patient has a score.

    Raises:
        DataError: A subset was scored on other cases than all modalities together.
    """
    by_subset = {name: part.drop(columns="subset") for name, part in scores.groupby("subset")}
    scored = [subset for subset in SUBSETS if name_of(subset) in by_subset]
    rows = []
    for subset in scored:
        whole = by_subset[name_of(scored[0])]
        for pair in paired_scores(whole, by_subset[name_of(subset)], patients):
            rows.append(_row(subset, pair, seed))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def worst_single_loss(table: pd.DataFrame, metric: str = "dice") -> list[dict[str, object]]:
    """Per region the row of :func:`subset_table` whose one missing modality costs most.

    ``missing`` is added to the row. Regions without a score are passed over.
    """
    if table.empty:
        return []
    whole = table.iloc[table["num_modalities"].argmax()]
    of_one_less = table["num_modalities"] == whole["num_modalities"] - 1
    rows: list[dict[str, object]] = []
    for _, part in (
        table[of_one_less & (table["metric"] == metric)]
        .dropna(subset="difference")
        .groupby("region", sort=False)
    ):
        row = part.loc[part["difference"].idxmin()].to_dict()
        (missing,) = set(whole["subset"].split("+")) - set(str(row["subset"]).split("+"))
        rows.append({str(key): value for key, value in row.items()} | {"missing": missing})
    return rows


def _row(subset: Subset, pair: Paired, seed: int) -> tuple[object, ...]:
    nothing = pair.second.size == 0
    return (
        name_of(subset),
        len(subset),
        pair.metric,
        pair.region,
        pair.second.size,
        pair.num_left_out,
        float("nan") if nothing else float(pair.second.mean()),
        *bootstrap_mean(pair.second, seed),
        float("nan") if nothing else float(pair.differences.mean()),
        *bootstrap_mean(pair.differences, seed),
    )
