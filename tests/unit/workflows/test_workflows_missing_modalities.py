"""A cross-validation with folds of its own: which network scores which case with what."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bratsml.data.cases import MODALITIES
from bratsml.evaluation.missing_modalities import SUBSETS, name_of, subset_table
from bratsml.workflows import missing_modalities as workflow


class FakeScorer:
    """Gives as Dice what the network saw: the fold, and the sum of the image."""

    def __init__(self, *arguments: Any, **named: Any) -> None: ...

    def rows(self, case_id: str, output: object, whole: np.ndarray) -> list[dict[str, object]]:
        return [{"case": case_id, "region": "WT", "dice": float(whole.sum())}]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    folds: list[int] = []

    def predictor(work: object, fold: int) -> SimpleNamespace:
        folds.append(fold)
        return SimpleNamespace(own_grid=lambda image, meta: image + 100 * fold, output=None)

    monkeypatch.setattr(workflow, "_predictor", predictor)
    monkeypatch.setattr(workflow, "CaseScorer", FakeScorer)
    return folds


def test_every_fold_scores_its_own_cases_under_every_subset(loaded: list[int]) -> None:
    image = np.array([1, 2, 4, 8], dtype=np.float32).reshape(4, 1, 1, 1)
    store = SimpleNamespace(image=lambda case: image, meta=lambda case: None)
    experiment = SimpleNamespace(
        evaluation=None, postprocess=(), data=SimpleNamespace(modalities=MODALITIES)
    )
    work: Any = SimpleNamespace(
        folds=(("a", "b"), ("c",)),
        store=store,
        output=SimpleNamespace(scheme=None),
        experiment=experiment,
    )
    scores = workflow.score_subsets(work)
    assert loaded == [0, 1]  # one network at a time, each loaded once
    assert len(scores) == 3 * 15
    assert scores.groupby("case")["subset"].nunique().eq(15).all()
    values = {"t1n": 1, "t1c": 2, "t2w": 4, "t2f": 8}
    for row in scores.to_dict("records"):
        fold = 1 if row["case"] == "c" else 0
        kept = sum(values[name] for name in row["subset"].split("+"))
        assert row["dice"] == kept + 400 * fold
        assert row["fold"] == fold


def test_terminal_and_sentence_say_mean_change_and_interval() -> None:
    scores = pd.DataFrame(
        [
            {"subset": name_of(subset), "case": "a", "region": "ET", "dice": len(subset) / 4}
            for subset in SUBSETS
        ]
    )
    table = subset_table(scores)
    shown = workflow.matrix(table, "x")
    assert list(shown.columns[0].cells) == [name_of(subset) for subset in SUBSETS]
    assert next(iter(shown.columns[1].cells)) == "1.000 (+0.000)\n1.000 to 1.000"
    assert list(shown.columns[1].cells)[-1] == "0.250 (-0.750)\n0.250 to 0.250"
    row = table.iloc[1].to_dict() | {"missing": "t2f"}
    assert workflow.sentence(row) == (
        "Dice ET loses most without t2f: -0.2500 (95 % interval -0.2500 to -0.2500 over 1 patients)"
    )
