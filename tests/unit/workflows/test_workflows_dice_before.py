"""The Dice before training that a cross-validation shows beside the folds' results."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bratsml.files import write_json
from bratsml.workflows.cv import _dice_before


@pytest.mark.parametrize(
    ("of_folds", "expected"),
    [
        ([{"start/dice/mean": 0.2}, {"start/dice/mean": 0.4}], 0.3),
        ([{"start/dice/mean": 0.2}, {"start/num_cases": 1.0}], None),  # all of its cases left out
        ([{"start/dice/mean": 0.2}, None], None),
    ],
)
def test_it_is_the_mean_of_folds_that_all_have_one(
    tmp_path: Path, of_folds: list[dict[str, float] | None], expected: float | None
) -> None:
    for fold, metrics in enumerate(of_folds):
        if metrics is not None:
            write_json(tmp_path / f"fold_{fold}" / "start.json", metrics)
    run: Any = SimpleNamespace(folds=range(2), fold_folder=lambda fold: tmp_path / f"fold_{fold}")
    assert _dice_before(run, "start") == (None if expected is None else pytest.approx(expected))
