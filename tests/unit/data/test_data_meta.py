"""What a case's numbers say about its grids."""

from __future__ import annotations

import pytest

from bratsml.data.meta import CaseMeta


def meta(**changes: object) -> CaseMeta:
    """A case of 4 x 5 x 6 voxels of 1 x 2 x 3 mm; in RAS its first two axes change places."""
    settings: dict[str, object] = {
        "id": "case7", "patient": "case7", "cohort": "unknown", "label_scheme": "brats2021",
        "has_label": False, "original_shape": (4, 5, 6),
        "affine": ((0, 2, 0, 0), (1, 0, 0, 0), (0, 0, 3, 0), (0, 0, 0, 1)),
        "spacing_mm": (1, 2, 3), "permutation": (1, 0, 2), "flips": (False, False, False),
        "resampled_shape": None, "crop_start": (1, 0, 2), "crop_stop": (4, 3, 6),
        "shape": (3, 3, 4), "volume_ml": {}, "foreground": {}, "intensities": {},
    }  # fmt: skip
    return CaseMeta.model_validate(settings | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (2, 1, 3)),
        ({"resampled_shape": (10, 4, 18)}, (1, 1, 1)),
        # 3 x 3 x 4 voxels of 2 x 1 x 3 mm squeezed into 6 x 3 x 2
        ({"shape": (6, 3, 2)}, (1, 1, 6)),
    ],
)
def test_voxel_size_of_the_stored_arrays(changes, expected):
    assert meta(**changes).stored_spacing_mm == expected
