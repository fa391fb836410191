"""Kept probabilities come back nearly as they were, and damage is seen."""

from __future__ import annotations

import numpy as np
import pytest

from bratsml.errors import DataError
from bratsml.evaluation.kept import kept_file, kept_path, load_probabilities, save_probabilities


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


@pytest.mark.parametrize(
    "case_id", ["case #1", "a?b", "a%2eb", "a%2Fb", "a;b:c", "=1+1", "ü", "x" * 240]
)
def test_any_case_is_kept_under_a_name_that_every_store_takes(tmp_path, case_id):
    name = kept_file(case_id)
    assert not set("#?%;:=+/\\ ") & set(name)
    save_probabilities(tmp_path / name, np.zeros((1, 2, 2, 2), np.float32))
    assert load_probabilities(kept_path(tmp_path, case_id)).shape == (1, 2, 2, 2)


def test_a_file_of_the_first_version_is_found(tmp_path):
    save_probabilities(tmp_path / "a b.npz", np.zeros((1, 2, 2, 2), np.float32))
    assert kept_path(tmp_path, "a b") == tmp_path / "a b.npz"
    save_probabilities(tmp_path / kept_file("a b"), np.zeros((1, 2, 2, 2), np.float32))
    assert kept_path(tmp_path, "a b") == tmp_path / "a~20b.npz"


def test_probabilities_of_another_grid_are_refused(tmp_path):
    path = tmp_path / "case7.npz"
    save_probabilities(path, np.zeros((1, 2, 3, 4), np.float32))
    assert load_probabilities(path, (1, 2, 3, 4)).shape == (1, 2, 3, 4)
    with pytest.raises(DataError, match=r"case7.*of shape \(1, 2, 3, 4\), expected"):
        load_probabilities(path, (1, 4, 3, 2))
    np.savez(path, levels=np.zeros((1, 2, 3, 4)))
    with pytest.raises(DataError, match="float64"):
        load_probabilities(path)
