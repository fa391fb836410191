"""Members kept on disk come back as they were, slab by slab."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bratsml.ensembling.volumes import MemberVolumes
from bratsml.geometry import CropBox

SHAPE = (6, 5, 4)


def spot(start: tuple[int, int, int], stop: tuple[int, int, int], value: float) -> np.ndarray:
    volume = np.zeros((2, *SHAPE), dtype=np.float32)
    volume[(slice(None), *CropBox(start, stop).slices)] = value
    return volume


@pytest.mark.parametrize("slab_values", [1, 60, 10**6])
def test_blocks_put_together_are_the_members_within_the_common_box(slab_values: int) -> None:
    first, second = spot((1, 1, 1), (3, 2, 2), 0.25), spot((2, 0, 1), (5, 2, 3), 0.75)
    second[1] = 0
    with MemberVolumes(2, SHAPE, slab_values) as volumes:
        for member in (first, np.zeros_like(first), second):
            volumes.add(member)
        assert volumes.box == CropBox((1, 0, 1), (5, 2, 3))
        together = np.concatenate([block for _, block in volumes.blocks()], axis=2)
        for member, found in zip((first, first * 0, second), together, strict=True):
            np.testing.assert_array_equal(found, volumes.box.crop(member))
        (swapped,) = {block.shape[0] for _, block in volumes.blocks((2, 0))}
        assert swapped == 2
        np.testing.assert_array_equal(
            np.concatenate([block for _, block in volumes.blocks((2, 0))], axis=2),
            together[[2, 0]],
        )
        np.testing.assert_array_equal(volumes.paste(together[2]), second)


def test_a_slab_holds_one_plane_or_as_many_numbers_as_allowed() -> None:
    with MemberVolumes(2, SHAPE, slab_values=2 * 2 * 20 * 2) as volumes:
        for _ in range(2):
            volumes.add(np.ones((2, *SHAPE), dtype=np.float32))
        assert [block.shape[2] for _, block in volumes.blocks()] == [2, 2, 2]
        assert [block.shape[2] for _, block in volumes.blocks((1,))] == [4, 2]


def test_the_box_holds_an_included_mask_and_is_never_empty() -> None:
    with MemberVolumes(2, SHAPE) as volumes:
        volumes.add(np.zeros((2, *SHAPE), dtype=np.float32))
        assert volumes.box.shape == (1, 1, 1)
        volumes.include(np.zeros(SHAPE, dtype=bool))
        mask = np.zeros(SHAPE, dtype=bool)
        mask[5, 4, 3] = True
        volumes.include(mask)
        assert volumes.box == CropBox((5, 4, 3), (6, 5, 4))
        assert [block.max() for _, block in volumes.blocks()] == [0]


def test_files_are_gone_afterwards_and_shapes_are_checked() -> None:
    with MemberVolumes(2, SHAPE) as volumes:
        volumes.add(spot((0, 0, 0), (1, 1, 1), 1))
        folder = Path(volumes._folder.name)
        assert len(list(folder.iterdir())) == 1
        with pytest.raises(ValueError, match="for 2 regions on a grid"):
            volumes.add(np.zeros((3, *SHAPE), dtype=np.float32))
    assert not folder.exists()
