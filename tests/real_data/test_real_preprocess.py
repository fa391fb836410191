"""Preprocessing of the real cases."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bratsml.data.cases import MODALITIES, discover_cases
from bratsml.data.ledger import read_manifest
from bratsml.data.prepare import prepare_case
from bratsml.data.preprocess import build_store, preprocess_dataset
from bratsml.data.recipes import NativeRecipe, Resize128Recipe
from bratsml.data.store import Store
from bratsml.errors import DataError
from bratsml.files import sha256_of
from bratsml.inference.restore import restore
from bratsml.labels import get_scheme

FOLDER = Path(os.environ.get("BRATSML_DATA", Path(__file__).parents[3] / "shared" / "data"))

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(
        not (FOLDER / "brats2021").is_dir(),
        reason="no real cases: set BRATSML_DATA to the folder that holds brats2021/",
    ),
]

CASES = tuple(
    f"BraTS2021_{number}" for number in ("00000", "00002", "00005", "00014", "00024", "00031")
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    out = tmp_path_factory.mktemp("real") / "store"
    return preprocess_dataset(FOLDER / "brats2021", out, NativeRecipe(), progress=False)


def voxels(case_id: str, suffix: str) -> np.ndarray:
    path = FOLDER / "brats2021" / case_id / f"{case_id}_{suffix}.nii.gz"
    return np.asarray(nib.load(path).dataobj)


def test_all_six_cases_are_accepted(store):
    assert store.case_ids == CASES
    assert store.label_scheme == "brats2021"
    assert store.index.rejected == 0


@pytest.mark.parametrize("case_id", CASES)
def test_label_and_image_return_to_the_grid_of_their_files(store, case_id):
    label = voxels(case_id, "seg")
    meta = store.meta(case_id)
    np.testing.assert_array_equal(restore(store.label(case_id), meta, linear=False), label)
    np.testing.assert_array_equal(store.reference(case_id), label)
    assert meta.volume_ml["WT"] == pytest.approx((label > 0).sum() / 1000)
    image = restore(store.image(case_id), meta, linear=False)
    for channel, suffix in enumerate(("t1", "t1ce", "t2", "flair")):
        raw = voxels(case_id, suffix).astype(np.float64)
        found = meta.intensities[MODALITIES[channel]]
        inside = image[channel] != 0
        units = image[channel][inside] * np.float64(found.std) + found.mean
        # float16 keeps eleven bits of a score that is mostly below four
        np.testing.assert_allclose(units, raw[inside], atol=found.std * 0.02)


def test_scores_are_normalised_inside_the_brain(store):
    for case_id in CASES:
        image = np.asarray(store.image(case_id), dtype=np.float64)
        brain = (image != 0).any(axis=0)
        assert np.abs(image[:, brain].mean(axis=1)).max() < 1e-3
        assert np.abs(image[:, brain].std(axis=1) - 1).max() < 1e-3


def test_the_label_map_without_sform_is_consistent_and_accepted(store):
    path = FOLDER / "brats2021" / "BraTS2021_00031" / "BraTS2021_00031_seg.nii.gz"
    header = nib.load(path).header
    assert (int(header["sform_code"]), header.get_data_dtype()) == (0, np.uint16)
    assert store.meta("BraTS2021_00031").has_label


def test_a_tiny_necrosis_is_not_lost(store):
    assert np.count_nonzero(store.label("BraTS2021_00014") == 1) == 2


def test_resize128_keeps_the_scheme_s_values(tmp_path):
    (case,) = [c for c in discover_cases(FOLDER / "brats2021", need_labels=True).cases
               if c.id == "BraTS2021_00000"]  # fmt: skip
    prepared = prepare_case(case, Resize128Recipe(), get_scheme("brats2021"))
    assert prepared.image.shape == (4, 128, 128, 128)
    assert prepared.image.min() == 0
    assert 0.8 < prepared.image.max() <= 1
    assert np.unique(prepared.label).tolist() == [0, 1, 2, 4]
    np.testing.assert_array_equal(prepared.reference, voxels("BraTS2021_00000", "seg"))


def test_four_series_on_four_grids_are_refused_with_the_reason(tmp_path):
    report = build_store(
        FOLDER / "native_tcga", tmp_path, NativeRecipe(), need_labels=False, progress=False
    )
    (error,) = report.rejected
    assert error.case == "native_tcga"
    assert "has shape 224x256x26" in error.reason
    assert "256x224x26" in error.reason
    assert error.remedy == "register and resample the case's files to one grid"


def test_a_case_under_2023_names(tmp_path):
    case_id = "BraTS-GLI-00000-000"
    folder = tmp_path / case_id
    folder.mkdir()
    source = FOLDER / "brats2021" / "BraTS2021_00000"
    for old, new in (("t1", "t1n"), ("t1ce", "t1c"), ("t2", "t2w"), ("flair", "t2f")):
        shutil.copy(source / f"BraTS2021_00000_{old}.nii.gz", folder / f"{case_id}-{new}.nii.gz")
    label = FOLDER / "brats2023_naming" / case_id / f"{case_id}-seg.nii.gz"
    shutil.copy(label, folder)
    found = discover_cases(tmp_path, need_labels=True)
    assert found.label_scheme == "brats2023"
    prepared = prepare_case(found.cases[0], NativeRecipe(), found.scheme())
    old_label = voxels("BraTS2021_00000", "seg")
    assert prepared.meta.volume_ml["ET"] == pytest.approx((old_label == 4).sum() / 1000)
    with pytest.raises(DataError, match=r"brats2021 does not know: 3 \("):
        prepare_case(found.cases[0], NativeRecipe(), get_scheme("brats2021"))


def test_the_manifest_names_every_file():
    manifest = FOLDER / "SHA256SUMS"
    expected = read_manifest(manifest)
    path = (FOLDER / "brats2021" / "BraTS2021_00000" / "BraTS2021_00000_seg.nii.gz").resolve()
    assert expected[path] == sha256_of(path)


@pytest.mark.parametrize("what", ["last 8 bytes", "half", "one bit"])
def test_a_damaged_real_file_is_refused(tmp_path, what):
    case_id = "BraTS2021_00005"
    shutil.copytree(FOLDER / "brats2021" / case_id, tmp_path / case_id)
    path = tmp_path / case_id / f"{case_id}_t2.nii.gz"
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    if what == "one bit":
        content[len(content) // 3] ^= 16
    else:
        del content[-8 if what == "last 8 bytes" else len(content) // 2 :]
    path.write_bytes(bytes(content))
    (case,) = discover_cases(tmp_path, need_labels=True).cases
    with pytest.raises(DataError, match=r"truncated|corrupt"):
        prepare_case(case, NativeRecipe(), get_scheme("brats2021"))
