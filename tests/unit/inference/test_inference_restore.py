"""Back to the case's own grid, voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest

from bratsml.data.meta import CaseMeta
from bratsml.inference.restore import restore


def meta(**changes: object) -> CaseMeta:
    """A case of 4 x 5 x 6 voxels; in RAS its x is the file's y backwards, its y the file's x."""
    settings: dict[str, object] = {
        "id": "case7", "patient": "case7", "cohort": "unknown", "label_scheme": "brats2021",
        "has_label": False, "original_shape": (4, 5, 6),
        "affine": ((0, -1, 0, 0), (1, 0, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)),
        "spacing_mm": (1, 1, 1), "permutation": (1, 0, 2), "flips": (True, False, False),
        "resampled_shape": None, "crop_start": (1, 0, 2), "crop_stop": (4, 3, 6),
        "shape": (3, 3, 4), "volume_ml": {}, "foreground": {}, "intensities": {},
    }  # fmt: skip
    return CaseMeta.model_validate(settings | changes)


def test_each_voxel_returns_to_its_place():
    stored = np.arange(1, 37, dtype=np.int64).reshape(3, 3, 4)
    whole = restore(stored, meta(), linear=False)
    assert whole.shape == (4, 5, 6)
    for x, y, z in np.ndindex(3, 3, 4):
        # cropped (x, y, z) = RAS (x+1, y, z+2) = file (y, 4-(x+1), z+2)
        assert whole[y, 3 - x, z + 2] == stored[x, y, z]
    assert np.count_nonzero(whole) == 36


def test_leading_axes_and_types_pass_through():
    stack = np.ones((2, 3, 3, 4), dtype=bool)
    assert restore(stack, meta(), linear=False).shape == (2, 4, 5, 6)
    assert restore(stack, meta(), linear=False).dtype == bool


def test_one_millimetre_back_to_thick_slices():
    # 6 slices of 2 mm were stored as 12 of 1 mm; a value per pair returns as a value per slice.
    thick = meta(
        spacing_mm=(1, 1, 2), resampled_shape=(5, 4, 12),
        crop_start=(0, 0, 0), crop_stop=(5, 4, 12), shape=(5, 4, 12),
    )  # fmt: skip
    pairs = np.repeat(np.arange(6, dtype=np.float32), 2) * np.ones((5, 4, 1), np.float32)
    np.testing.assert_allclose(restore(pairs, thick, linear=True)[0, 0], np.arange(6))
    np.testing.assert_array_equal(
        restore(pairs.astype(np.uint8), thick, linear=False)[0, 0], np.arange(6)
    )


def test_resized_cubes_are_stretched_back():
    squeezed = meta(shape=(6, 6, 8))
    whole = restore(np.ones((6, 6, 8), dtype=np.uint8), squeezed, linear=False)
    expected = restore(np.ones((3, 3, 4), dtype=np.uint8), meta(), linear=False)
    np.testing.assert_array_equal(whole, expected)
    assert restore(np.ones((6, 6, 8)), squeezed, linear=True).dtype == np.float32


def test_arrays_of_another_grid_are_refused():
    with pytest.raises(ValueError, match="not in the stored grid"):
        restore(np.zeros((3, 3, 3)), meta(), linear=False)
