"""Raw cases of a thousand voxels, written as real NIfTI files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (10, 12, 8)
LPS_1MM = np.array([[-1, 0, 0, 0], [0, -1, 0, 11], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float)
SUFFIXES = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}

WriteCase = Callable[..., dict[str, Path]]


def brain_volumes(seed: int = 0) -> dict[str, np.ndarray]:
    """Four int16 modalities: 0 outside the box 2..8 x 3..10 x 1..7, 100..899 inside."""
    rng = np.random.default_rng(seed)
    volumes = {}
    for modality in SUFFIXES:
        volume = np.zeros(SHAPE, dtype=np.int16)
        volume[2:8, 3:10, 1:7] = rng.integers(100, 900, size=(6, 7, 6))
        volumes[modality] = volume
    return volumes


def tumour_label() -> np.ndarray:
    """Values 0, 1, 2, 4: 1 necrotic, 8 enhancing and 18 oedema voxels."""
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[3:6, 4:7, 2:5] = 2
    label[3:6, 4:7, 3] = 4
    label[4, 5, 3] = 1
    return label


def save_nifti(path: Path, data: np.ndarray, affine: np.ndarray = LPS_1MM) -> None:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nib.save(image, path)


def case_writer(root: Path) -> WriteCase:
    """A function that writes ``<root>/<id>/<id>_t1.nii.gz`` ... and returns the files by use."""

    def write(case_id: str = "BraTS2021_00000", seed: int = 0, ending: str = ".nii.gz") -> dict:
        folder = root / case_id
        folder.mkdir(parents=True, exist_ok=True)
        paths = {}
        for modality, volume in brain_volumes(seed).items():
            paths[modality] = folder / f"{case_id}_{SUFFIXES[modality]}{ending}"
            save_nifti(paths[modality], volume)
        paths["label"] = folder / f"{case_id}_seg{ending}"
        save_nifti(paths["label"], tumour_label())
        return paths

    return write
