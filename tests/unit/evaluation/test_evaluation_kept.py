"""Kept probabilities come back nearly as they were, and damage is seen."""

from __future__ import annotations

import numpy as np
import pytest

from bratsml.errors import DataError
from bratsml.evaluation.kept import load_probabilities, save_probabilities


def test_within_half_a_level_and_exact_at_one_half(tmp_path):
    rng = np.random.default_rng(0)
    probabilities = rng.random((3, 9, 8, 7)).astype(np.float32)
    probabilities[0, 0, 0, :4] = [0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.4999, 0.501]
    save_probabilities(tmp_path / "case.npz", probabilities)
    back = load_probabilities(tmp_path / "case.npz")
    assert np.abs(back - probabilities).max() <= 1 / 510 + 1e-6
    above = probabilities > 0.5
    above[0, 0, 0, 0] = True  # exactly one half is the one value that moves: to above
    np.testing.assert_array_equal(back > 0.5, above)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "case7.npz"
    save_probabilities(path, np.random.default_rng(0).random((1, 20, 20, 20)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="case7"):
        load_probabilities(path)
    with pytest.raises(DataError, match="case8"):
        load_probabilities(tmp_path / "case8.npz")
