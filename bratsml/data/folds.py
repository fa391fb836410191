"""Making the split of a dataset: by chance, stratified by patient, or from a fixed fold file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from bratsml.config import Config
from bratsml.data.fold_files import read_fold_file
from bratsml.data.split import Split, check_split, listed
from bratsml.data.stratify import CaseLike, deal, draw_test, ids_of, ordered_patients
from bratsml.errors import ConfigError

__all__ = ["CaseLike", "Split", "SplitConfig", "check_split", "make_split"]


class SplitConfig(Config):
    """How cases are divided.

    Attributes:
        folds: Number of cross-validation folds.
        test_fraction: Share of the patients that is held out, at least one of four or more; 0 for
            none.
        seed: Another seed gives another division; independent of the experiment's seed, so that
            seeds can be compared on the same folds.
        file: A fold file to follow instead (see :mod:`bratsml.data.fold_files`); the settings above
            are then unused.
    """

    folds: int = Field(default=5, ge=2, le=100)
    test_fraction: float = Field(default=0.1, ge=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    file: str | None = None


def make_split(cases: Sequence[CaseLike], config: SplitConfig) -> Split:
    """Divide the cases, or follow the fixed file that the configuration names.

    The result depends on the cases and the configuration alone, not on the order of the cases.
    Patients are ordered by cohort, presence of ET and whole-tumour volume. The test split takes one
    from each of as many equal stretches of that order. The rest is dealt out in rounds of one
    patient per fold, so folds differ by at most one patient, also within each cohort with and
    without ET, and every fold sees small and large tumours alike.

    Raises:
        ConfigError: Fewer patients than folds, a case twice, or a fixed file that does not fit.
    """
    ids = [case.id for case in cases]
    twice = sorted(case_id for case_id, count in Counter(ids).items() if count > 1)
    if twice:
        raise ConfigError(f"the dataset holds {listed(twice)} more than once; remove the copies")
    if config.file is not None:
        split = read_fold_file(Path(config.file), ids)
        check_split(split, cases, Path(config.file).name)
        return split
    patients = ordered_patients(cases)
    rng = np.random.default_rng(config.seed)
    test = draw_test(patients, config.test_fraction, rng)
    rest = [patient for patient in patients if patient not in test]
    if len(rest) < config.folds:
        held_out = f" besides {len(test)} held out for test" if test else ""
        raise ConfigError(
            f"{config.folds} folds need at least {config.folds} patients, there are "
            f"{len(rest)}{held_out}; lower split.folds or add cases"
        )
    folds = deal(rest, config.folds, rng)
    return Split(test=ids_of(test), folds=tuple(ids_of(fold) for fold in folds))
