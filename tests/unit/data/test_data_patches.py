"""Where patches lie, and what is read of a stored array."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from bratsml.data.patches import (
    random_foreground_voxel,
    random_start,
    read_patch,
    start_around,
    start_limits,
)


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


class TestStarts:
    def test_limits_keep_the_smaller_inside_the_larger(self) -> None:
        # 10 voxels, patch 4: starts 0..6; 3 voxels, patch 4: starts -1..0; 4 and 4: only 0
        assert start_limits((10, 3, 4), (4, 4, 4)) == [(0, 6), (-1, 0), (0, 0)]

    def test_random_starts_reach_both_ends(self) -> None:
        rng = generator()
        starts = {random_start((6, 3, 4), (4, 4, 4), rng) for _ in range(200)}
        assert starts == {(x, y, 0) for x in (0, 1, 2) for y in (-1, 0)}

    def test_a_centred_patch_has_the_voxel_in_its_middle(self) -> None:
        assert start_around((10, 11, 12), (20, 20, 20), (4, 4, 5), 0.0, generator()) == (8, 9, 10)

    def test_a_patch_near_the_border_is_moved_inside(self) -> None:
        assert start_around((0, 19, 5), (20, 20, 20), (8, 8, 8), 0.0, generator()) == (0, 12, 1)

    @pytest.mark.parametrize("patch", [(8, 8, 8), (7, 5, 3), (1, 2, 1), (64, 6, 8)])
    def test_jitter_never_loses_the_voxel(self, patch: tuple[int, int, int]) -> None:
        rng = generator()
        for _ in range(300):
            voxel = tuple(int(v) for v in rng.integers(0, 20, 3))
            start = start_around(voxel, (20, 20, 20), patch, 0.5, rng)
            assert all(s <= v < s + p for s, v, p in zip(start, voxel, patch, strict=True))

    def test_jitter_shifts_by_its_share_at_most(self) -> None:
        rng = generator()
        starts = {
            start_around((50, 50, 50), (99, 99, 99), (20, 20, 20), 0.1, rng)[0] for _ in range(99)
        }
        assert starts == {38, 39, 40, 41, 42}  # 50 - 10, and 0.1 * 20 = 2 to either side


class TestForegroundVoxel:
    def test_is_none_without_foreground(self) -> None:
        empty = {"ET": np.array([], dtype=np.int64)}
        assert random_foreground_voxel(empty, (3, 3, 3), generator()) is None

    def test_is_a_voxel_of_a_region_that_is_present(self) -> None:
        foreground = {"ET": np.array([], dtype=np.int64), "WT": np.array([7])}
        # 7 = 0 * 12 + 1 * 4 + 3 in a volume of 2 x 3 x 4
        assert random_foreground_voxel(foreground, (2, 3, 4), generator()) == (0, 1, 3)

    def test_small_regions_come_as_often_as_large_ones(self) -> None:
        foreground = {"ET": np.array([0]), "WT": np.arange(1, 1000)}
        rng = generator()
        drawn = [random_foreground_voxel(foreground, (10, 10, 10), rng) for _ in range(400)]
        # half of 400 in expectation, standard deviation 10
        assert 150 < drawn.count((0, 0, 0)) < 250


class TestReadPatch:
    STORED = np.arange(2 * 4 * 5 * 6, dtype=np.float16).reshape(2, 4, 5, 6)

    def test_reads_a_box(self) -> None:
        patch = np.empty((2, 2, 3, 2), np.float32)
        read_patch(self.STORED, (1, 2, 4), patch)
        assert np.array_equal(patch, self.STORED[:, 1:3, 2:5, 4:6])

    @pytest.mark.parametrize("start", [(-2, 0, 0), (-1, -3, -2), (0, -1, -4), (3, 4, 5), (9, 0, 0)])
    def test_fills_with_zeros_outside(self, start: tuple[int, int, int]) -> None:
        patch = np.full((2, 8, 8, 10), 7, np.float32)
        read_patch(self.STORED, start, patch)
        padded = np.pad(self.STORED, ((0, 0), (20, 20), (20, 20), (20, 20)))
        x, y, z = (20 + first for first in start)
        assert np.array_equal(patch, padded[:, x : x + 8, y : y + 8, z : z + 10])

    def test_reads_a_memory_map_without_a_warning(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", self.STORED)
        patch = np.empty((2, 4, 4, 4), np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_patch(np.load(tmp_path / "a.npy", mmap_mode="r"), (0, 0, 0), patch)
        assert np.array_equal(patch, self.STORED[:, :4, :4, :4])

    def test_keeps_every_float16_value(self) -> None:
        every = np.arange(65536, dtype=np.uint16).view(np.float16)
        stored = every[np.isfinite(every)].reshape(1, -1, 8, 1)
        patch = np.empty(stored.shape, np.float32)
        read_patch(stored, (0, 0, 0), patch)
        assert np.array_equal(patch.astype(np.float16), stored)

    def test_reads_label_maps(self) -> None:
        label = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
        patch = np.empty((4, 3, 3), np.uint8)
        read_patch(label, (-1, 0, 0), patch)
        assert np.array_equal(patch[1:], label)
        assert not patch[0].any()
