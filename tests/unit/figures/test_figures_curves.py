import math

import pandas as pd
import pytest

from bratsml.figures.curves import cell, fold_curves, fold_table_figure


def curves(*rows):
    return pd.DataFrame(rows, columns=["fold", "metric", "epoch", "value"])


TWO_FOLDS = curves(
    (0, "val/dice/WT", 0, 0.2),
    (0, "val/dice/WT", 5, 0.6),
    (1, "val/dice/WT", 5, 0.8),
    (1, "val/dice/WT", 0, 0.4),
    (1, "val/dice/WT", 10, 0.9),
    (0, "train/loss", 0, 2.0),
    (1, "train/loss", 0, 4.0),
)


def lines(figure, name):
    return [
        (list(trace.x), pytest.approx(list(trace.y))) for trace in figure.data if trace.name == name
    ]


def test_one_line_per_fold_in_rising_epochs():
    figure = fold_curves(TWO_FOLDS)
    assert lines(figure, "fold 0") == [([0, 5], [0.2, 0.6]), ([0], [2.0])]
    assert lines(figure, "fold 1") == [([0, 5, 10], [0.4, 0.8, 0.9]), ([0], [4.0])]


def test_the_mean_stops_where_a_fold_does():
    figure = fold_curves(TWO_FOLDS)
    assert lines(figure, "mean of folds") == [([0, 5], [0.3, 0.7]), ([0], [3.0])]


def test_each_metric_has_a_titled_panel_and_each_name_one_legend_entry():
    figure = fold_curves(TWO_FOLDS)
    assert [note.text for note in figure.layout.annotations] == ["val/dice/WT", "train/loss"]
    listed = [trace.name for trace in figure.data if trace.showlegend]
    assert listed == ["fold 0", "fold 1", "mean of folds"]


def test_without_curves_the_figure_is_empty():
    assert len(fold_curves(curves()).data) == 0


def test_table_holds_text_and_dice():
    table = pd.DataFrame(
        {"fold": ["0", "mean"], "cases": ["3", ""], "ET": [0.5, math.nan], "mean": [0.91238, 1.0]}
    )
    shown = fold_table_figure(table).data[0]
    assert list(shown.header.values) == ["<b>fold</b>", "<b>cases</b>", "<b>ET</b>", "<b>mean</b>"]
    assert [list(column) for column in shown.cells.values] == [
        ["0", "mean"],
        ["3", ""],
        ["0.5000", "–"],
        ["0.9124", "1.0000"],
    ]


def test_rows_of_summary_are_shaded():
    table = pd.DataFrame({"fold": ["0", "mean", "spread"], "WT": [0.5, 0.5, 0.0]})
    first, mean, spread = fold_table_figure(table).data[0].cells.fill.color[0]
    assert first != mean == spread


def test_a_long_table_is_not_cut_off():
    short = fold_table_figure(pd.DataFrame({"fold": ["0"]})).layout
    long = fold_table_figure(pd.DataFrame({"fold": [str(n) for n in range(12)]})).layout
    rows = 12 + 1
    assert long.height - long.margin.t - long.margin.b >= rows * 28
    assert short.height < long.height


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.12345, "0.1235"),
        (3.1e-7, "3e-07"),
        (-2e-5, "-2e-05"),
        (0.0, "0.0000"),
        (7, "7"),
        ("a", "a"),
    ],
)
def test_a_cell_hides_no_small_number(value: object, shown: str) -> None:
    assert cell(value) == shown


def test_a_cell_without_a_number_is_a_dash() -> None:
    assert cell(float("nan")) == "–"
