import numpy as np
import pytest

from bratsml.metrics.overlap import dice


def row(text):
    """A volume of one row: ``#`` for true."""
    return np.array([letter == "#" for letter in text]).reshape(-1, 1, 1)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("####", "####", 1.0),
        ("##..", "..##", 0.0),
        ("###.", ".###", 2 * 2 / (3 + 3)),
        ("#...", "####", 2 * 1 / (1 + 4)),
    ],
)
def test_values_by_hand(prediction, reference, expected):
    assert dice(row(prediction), row(reference)) == pytest.approx(expected)


def test_counts_do_not_overflow():
    mask = np.ones((700, 700, 1), bool)  # 490,000 voxels, far beyond 16 bits
    assert dice(mask, mask) == 1.0
