"""``prune``: what is asked for, and its table worked out by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from bratsml.config import build_config
from bratsml.errors import ConfigError
from bratsml.experiment import Experiment
from bratsml.figures.prune import pruning_figure, sensitivity_figure
from bratsml.metrics import METRIC_VERSION
from bratsml.training.transfer import TransferConfig
from bratsml.workflows import prune
from bratsml.workflows.prune import Plan, parse_plan, share_table


def test_shares_are_sorted_and_zero_is_always_measured_anyway() -> None:
    assert parse_plan("0.9, 0.5,0,.5", "0", "0.9") == Plan((0.5, 0.9), 0.0, 0.9)
    assert parse_plan("", "", "") == Plan((0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99), 0.8, None)


@pytest.mark.parametrize("text", ["1", "-0.1", "half", "0.5;0.6", "nan"])
def test_what_is_not_a_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="shares of the weights from 0 to below 1"):
        parse_plan(text, "", "")


def scores() -> pd.DataFrame:
    """Two visits of patient p and one of q."""
    dice = {0.0: (0.8, 0.6, 0.9), 0.5: (0.8, 0.4, 0.5)}
    return pd.DataFrame(
        [
            {"share": share, "case": case, "region": "WT", "dice": value}
            for share, values in dice.items()
            for case, value in zip(("p1", "p2", "q1"), values, strict=True)
        ]
    )


def test_changes_are_paired_and_patients_weigh_the_same() -> None:
    sizes = pd.DataFrame(
        {"share": [0.0, 0.0, 0.5, 0.5], "megabytes": [4, 6, 2, 4], "seconds": [1, 1, 1, 3]}
    )
    table = share_table(scores(), sizes, {"p1": "p", "p2": "p", "q1": "q"})
    whole, half = table.to_dict("records")
    assert whole["dice"] == pytest.approx((0.7 + 0.9) / 2)
    assert whole["change"] == 0
    assert half["dice"] == pytest.approx((0.6 + 0.5) / 2)
    assert half["change"] == pytest.approx((-0.1 - 0.4) / 2)
    assert half["change_low95"] == pytest.approx(-0.4)
    assert half["change_high95"] == pytest.approx(-0.1)
    assert (half["megabytes"], half["seconds_per_case"]) == (3, 2)
    figure = pruning_figure(table, "pruning")
    assert list(figure.data[0].x) == [0, 50]


def test_the_sensitivity_keeps_the_order_of_the_layers() -> None:
    table = pd.DataFrame({"layer": ["b", "a"], "num_weights": [1, 2], "change": [-0.1, 0.0]})
    assert list(sensitivity_figure(table, "layers").data[0].y) == ["b", "a"]


def test_the_costliest_layer_is_named_where_any_was_scored() -> None:
    table = pd.DataFrame({"layer": ["b", "a", "c"], "change": [-0.1, -0.3, float("nan")]})
    sentence = prune._layers_sentence(table, 0.995)
    assert sentence == "with 99.5% of one layer taken, a costs most: -0.3000 mean Dice (fold 0)"
    assert "no case of fold 0" in prune._layers_sentence(table.assign(change=float("nan")), 0.8)


def test_what_is_pruned_is_trained_on_with_its_zeros_and_nothing_of_an_earlier_start(
    tmp_path: Path,
) -> None:
    tree = {
        "name": "x",
        "data": {"extra": "(path outside the project)"},
        "train": {"epochs": 50},
        "optim": {"lr": 0.01},
        "transfer": {"start": ["0"], "freeze_but_last": 3, "reset_last": 2},
    }
    work: Any = SimpleNamespace(experiment=build_config(Experiment, tree), root=tmp_path)
    found = prune._to_finetune(work)
    assert found.transfer == TransferConfig(keep_zeros=True)
    assert (found.train.epochs, found.optim.lr, found.data.extra) == (5, 0.001, "")
    (tmp_path / "extra").mkdir()
    work.experiment = build_config(Experiment, {**tree, "data": {"extra": "extra"}})
    assert prune._to_finetune(work).data.extra == "extra"


def test_zeros_cannot_be_held_in_what_starts_afresh() -> None:
    with pytest.raises(ConfigError, match="leave keep_zeros or reset and reset_last out"):
        build_config(Experiment, {"transfer": {"keep_zeros": True, "reset_last": 1}})


def test_the_run_says_whom_its_cases_favour() -> None:
    text = prune._description(["a tie"])
    assert text.startswith("- a tie\n\nEach fold's checkpoint was chosen on these cases")
    assert METRIC_VERSION in text
