from __future__ import annotations

import pytest

from bratsml.workflows.train import parse_split


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("", ("", 0)),
        ("3", ("", 3)),
        ("folds.json", ("folds.json", 0)),
        ("folds.json:2", ("folds.json", 2)),
        ("C:/x/folds.json:1", ("C:/x/folds.json", 1)),
    ],
)
def test_split_means_a_fold_a_file_or_both(text: str, meaning: tuple[str, int]) -> None:
    assert parse_split(text) == meaning
