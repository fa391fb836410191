"""Where Dice is lost, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from bratsml.metrics.lost_points import LostPoints, lost_points
from bratsml.metrics.overlap import dice


def row(text: str) -> np.ndarray:
    return np.array([[[c == "#" for c in text]]])


def test_each_kind_of_loss():
    reference = row("##..###...#.")
    prediction = row("....#####..#")
    # missed: the pair at 0 and the voxel at 10; made up: the voxel at 11, next to it but not on it
    found = lost_points(prediction, reference)
    total = 6 + 6
    assert found.missed == pytest.approx(3 / total)
    assert found.made_up == pytest.approx(1 / total)
    assert found.boundary == pytest.approx(2 / total)


def test_shares_add_up_to_what_dice_lacks():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = (rng.random((5, 6, 7)) < rng.uniform(0.02, 0.3) for _ in range(2))
        found = lost_points(a, b)
        lost = found.missed + found.made_up + found.boundary
        assert lost == pytest.approx(1 - dice(a, b))
        assert min(found.missed, found.made_up, found.boundary) >= 0


def test_empty_masks():
    nothing, something = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    assert lost_points(nothing, nothing) == LostPoints(0, 0, 0)
    assert lost_points(nothing, something) == LostPoints(1, 0, 0)
    assert lost_points(something, nothing) == LostPoints(0, 1, 0)
    with pytest.raises(ValueError, match="shape"):
        lost_points(nothing, np.zeros((2, 2, 2), bool))
