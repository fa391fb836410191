"""One case through both recipes, against values worked out another way."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from raw_cases import LPS_1MM, SHAPE, brain_volumes, save_nifti, tumour_label

from bratsml.data.cases import MODALITIES, discover_cases
from bratsml.data.prepare import FOREGROUND_SAMPLES, NO_FOREGROUND, OUTSIDE_CROP, prepare_case
from bratsml.data.recipes import NativeRecipe, Resize128Recipe
from bratsml.errors import DataError
from bratsml.labels import get_scheme

SCHEME = get_scheme("brats2021")
NATIVE = NativeRecipe(margin_voxels=1, dtype="float32")
SMALL_CUBE = Resize128Recipe(shape=(8, 8, 8))


@pytest.fixture
def prepare(raw):
    def run(recipe=NATIVE, scheme=SCHEME, **options):
        (case,) = discover_cases(raw, need_labels=False).cases
        return prepare_case(case, recipe, scheme, **options)

    return run


def test_native_crops_turns_and_scores(write_raw_case, prepare):
    write_raw_case()
    case = prepare()
    # LPS to RAS reverses x and y. Brain 2..8 x 3..10 x 1..7 of 10 x 12 x 8 becomes 2..8 x 2..9 x
    # 1..7, and with one voxel of margin 1..9 x 1..10 x 0..8.
    assert (case.meta.crop_start, case.meta.crop_stop) == ((1, 1, 0), (9, 10, 8))
    assert case.image.shape == (4, 8, 9, 8) == (4, *case.meta.shape)
    for channel, modality in enumerate(MODALITIES):
        volume = brain_volumes()[modality].astype(np.float64)
        inside = volume[2:8, 3:10, 1:7]
        expected = np.zeros(SHAPE)
        expected[2:8, 3:10, 1:7] = (inside - inside.mean()) / inside.std()
        expected = expected[::-1, ::-1][1:9, 1:10, 0:8]
        np.testing.assert_allclose(case.image[channel], expected, atol=1e-5)
        found = case.meta.intensities[modality]
        assert found.mean == pytest.approx(inside.mean())
        assert (found.minimum, found.maximum) == (inside.min(), inside.max())
    np.testing.assert_array_equal(case.label, tumour_label()[::-1, ::-1][1:9, 1:10, 0:8])
    assert case.label.flags.c_contiguous
    assert case.reference is None


def test_native_is_stored_in_float16(write_raw_case, prepare):
    write_raw_case()
    assert prepare(NativeRecipe()).image.dtype == np.float16


def test_the_brain_is_where_any_modality_is_not_zero(write_raw_case, prepare):
    paths = write_raw_case()
    volume = brain_volumes()["t2w"]
    volume[0, 0, 0] = 50
    save_nifti(paths["t2w"], volume)
    case = prepare(NativeRecipe(margin_voxels=0, dtype="float32"))
    corner = case.image[:, -1, -1, 0]  # voxel 0, 0, 0 after the turn to RAS
    assert case.meta.crop_stop == (10, 12, 7)
    assert (corner < 0).all()  # inside the brain, so scored in every modality
    assert (case.image[:, 0, 0, 0] == 0).sum() == 4


def test_resize128_follows_its_steps(write_raw_case, prepare):
    write_raw_case()
    case = prepare(SMALL_CUBE)
    assert case.meta.crop_box.shape == (6, 7, 6)  # no margin
    for channel, modality in enumerate(MODALITIES):
        volume = brain_volumes()[modality].astype(np.float32)
        scaled = (volume - volume.min()) / (volume.max() - volume.min())
        cropped = np.ascontiguousarray(scaled[::-1, ::-1][2:8, 2:9, 1:7])
        tensor = torch.from_numpy(cropped)[None, None]
        expected = torch.nn.functional.interpolate(tensor, (8, 8, 8), mode="trilinear")
        np.testing.assert_allclose(case.image[channel], expected[0, 0].numpy(), atol=1e-5)
    cropped = np.ascontiguousarray(tumour_label()[::-1, ::-1][2:8, 2:9, 1:7])
    tensor = torch.from_numpy(cropped)[None, None].float()
    expected = torch.nn.functional.interpolate(tensor, (8, 8, 8), mode="nearest-exact")
    np.testing.assert_array_equal(case.label, expected[0, 0].numpy())
    np.testing.assert_array_equal(case.reference, tumour_label())


def test_default_cube_has_128_voxels_a_side():
    assert Resize128Recipe().shape == (128, 128, 128)


def test_other_spacing_is_brought_to_1_mm_on_one_grid(write_raw_case, prepare):
    paths = write_raw_case()
    affine = LPS_1MM @ np.diag([1, 1, 2, 1])
    for use, path in paths.items():
        data = tumour_label() if use == "label" else brain_volumes()[use]
        save_nifti(path, data, affine)
    case = prepare(NativeRecipe(margin_voxels=20, dtype="float32"))
    assert case.meta.resampled_shape == (10, 12, 16) == case.meta.shape
    assert case.meta.spacing_mm == (1, 1, 2)
    assert case.meta.volume_ml["WT"] == pytest.approx(27 * 2 / 1000)
    # Planes 2i and 2i+1 lie a quarter voxel below and above plane i: nearest gives i to both.
    expected = np.repeat(tumour_label()[::-1, ::-1], 2, axis=2)
    np.testing.assert_array_equal(case.label, expected)
    np.testing.assert_array_equal(case.reference, tumour_label())


def test_what_is_known_of_the_label_map(write_raw_case, prepare):
    write_raw_case()
    case = prepare()
    assert case.meta.volume_ml == pytest.approx({"ET": 0.008, "TC": 0.009, "WT": 0.027})
    flat = case.label.ravel()
    for region, values in (("ET", {4}), ("TC", {1, 4}), ("WT", {1, 2, 4})):
        voxels = case.meta.foreground[region]
        assert set(flat[voxels].tolist()) == values
        assert voxels == sorted(voxels)
    assert [len(case.meta.foreground[r]) for r in ("ET", "TC", "WT")] == [8, 9, 27]


def test_foreground_is_a_seeded_sample(write_raw_case, prepare, raw):
    paths = write_raw_case()
    rng = np.random.default_rng(0)
    for modality in MODALITIES:
        save_nifti(paths[modality], rng.integers(1, 900, (20, 20, 20)).astype(np.int16))
    save_nifti(paths["label"], np.full((20, 20, 20), 4, dtype=np.uint8))
    first, second = prepare(), prepare()
    assert len(first.meta.foreground["ET"]) == FOREGROUND_SAMPLES
    assert len(set(first.meta.foreground["ET"])) == FOREGROUND_SAMPLES
    assert first.meta == second.meta


def test_a_case_without_label(write_raw_case, prepare):
    paths = write_raw_case()
    unread = prepare(with_label=False)
    paths["label"].unlink()
    case = prepare()
    assert case.label is None
    assert unread.label is None
    assert not case.meta.has_label
    assert case.meta.foreground == {} == case.meta.volume_ml


def test_an_empty_label_map_is_accepted_and_flagged(write_raw_case, prepare):
    paths = write_raw_case()
    save_nifti(paths["label"], np.zeros(SHAPE, dtype=np.uint8))
    case = prepare()
    assert case.meta.flags == (NO_FOREGROUND,)
    assert case.meta.foreground["WT"] == []


def test_label_voxels_outside_the_crop_are_flagged_and_kept(write_raw_case, prepare):
    paths = write_raw_case()
    label = tumour_label()
    label[0, 0, 7] = 2
    save_nifti(paths["label"], label)
    case = prepare(NativeRecipe(margin_voxels=0))
    assert case.meta.flags == (OUTSIDE_CROP,)
    np.testing.assert_array_equal(case.reference, label)


def test_a_label_without_sform_is_accepted_when_its_qform_agrees(write_raw_case, prepare):
    paths = write_raw_case()
    image = nib.Nifti1Image(tumour_label().astype(np.uint16), LPS_1MM)
    image.set_qform(LPS_1MM, code=1)
    image.set_sform(None, code=0)
    nib.save(image, paths["label"])
    assert prepare().meta.volume_ml["WT"] == pytest.approx(0.027)


def test_repairs_are_logged_with_the_case(write_raw_case, prepare):
    paths = write_raw_case(ending=".nii")
    content = bytearray(paths["t1n"].read_bytes())
    content[80:84] = b"\0\0\0\0"  # voxel size along x
    paths["t1n"].write_bytes(bytes(content))
    with pytest.raises(DataError, match="--repair"):
        prepare()
    assert "taken as" in prepare(repair=True).meta.flags[0]


def test_the_decathlon_gives_the_same_arrays(write_raw_case, prepare, tmp_path):
    write_raw_case()
    separate = prepare()
    root = tmp_path / "Task01"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    order = [brain_volumes()[m] for m in ("t2f", "t1n", "t1c", "t2w")]
    save_nifti(root / "imagesTr" / "BRATS_001.nii.gz", np.stack(order, axis=3))
    label = tumour_label()
    values = np.array([0, 2, 1, 9, 3], dtype=np.uint8)  # NCR 1 -> 2, ED 2 -> 1, ET 4 -> 3
    save_nifti(root / "labelsTr" / "BRATS_001.nii.gz", values[label])
    found = discover_cases(root, need_labels=True)
    case = prepare_case(found.cases[0], NATIVE, found.scheme())
    np.testing.assert_array_equal(case.image, separate.image)
    assert case.meta.volume_ml == separate.meta.volume_ml


def test_a_modality_flat_inside_the_brain(write_raw_case, prepare):
    paths = write_raw_case()
    volume = brain_volumes()["t1c"]
    volume[volume > 0] = 7
    save_nifti(paths["t1c"], volume)
    with pytest.raises(DataError, match="t1c has zero variance inside the brain"):
        prepare()


def test_the_key_depends_on_everything_that_decides_the_arrays(write_raw_case, prepare):
    paths = write_raw_case()
    keys = [
        prepare().meta.key,
        prepare(NativeRecipe(margin_voxels=2)).meta.key,
        prepare(SMALL_CUBE).meta.key,
        prepare(repair=True).meta.key,
    ]
    save_nifti(paths["t1n"], brain_volumes(1)["t1n"])
    keys.append(prepare().meta.key)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("scale", [1, 1000, -7])
@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_scores_of_whole_numbers_and_of_floats_are_the_same(write_raw_case, prepare, scale, dtype):
    paths = write_raw_case()
    volume = brain_volumes()["t1n"].astype(dtype) * scale
    volume[4, 4, 4] = 0  # a zero inside the brain is scored like any other value
    save_nifti(paths["t1n"], volume)
    case = prepare(NativeRecipe(margin_voxels=0, dtype="float32"))
    inside = volume[2:8, 3:10, 1:7].astype(np.float64)
    expected = ((inside - inside.mean()) / inside.std())[::-1, ::-1]
    np.testing.assert_allclose(case.image[0], expected, atol=1e-5)


def test_a_background_of_minus_one_is_refused_or_taken_as_zero_on_request(write_raw_case, prepare):
    paths = write_raw_case()
    expected = prepare()
    volume = brain_volumes()["t2w"]
    save_nifti(paths["t2w"], np.where(volume == 0, -1, volume).astype(np.int16))
    with pytest.raises(DataError, match="its background is -1, not 0"):
        prepare()
    mended = prepare(repair=True)
    np.testing.assert_array_equal(mended.image, expected.image)
    assert "background -1 of t2w taken as 0" in mended.meta.flags
