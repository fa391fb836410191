"""Invariants of reading, preprocessing and restoring."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bratsml.data.cases import MODALITIES, CaseFiles
from bratsml.data.nifti import decode_volume, write_label_map
from bratsml.data.prepare import prepare_case
from bratsml.data.recipes import NativeRecipe, Resize128Recipe
from bratsml.errors import DataError
from bratsml.inference.restore import restore
from bratsml.labels import SCHEMES, get_scheme

orientations = st.sampled_from(
    [
        "".join(axes)
        for order in itertools.permutations(("RL", "AP", "SI"))
        for axes in itertools.product(*order)
    ]
)
shapes = st.tuples(*[st.integers(3, 9)] * 3)


def case_on_disk(folder: Path, shape, axes: str, spacing, scheme, seed: int):
    """A case of random brain and label in any axis order; returns its files and label map."""
    rng = np.random.default_rng(seed)
    turn = nib.orientations.inv_ornt_aff(
        nib.orientations.axcodes2ornt(tuple(axes)), np.array(shape)
    )
    affine = np.linalg.inv(turn) @ np.eye(4)
    affine = affine @ np.diag([*spacing, 1.0])
    brain = np.zeros(shape, dtype=bool)
    start = [int(rng.integers(0, n // 2)) for n in shape]
    brain[start[0] :, start[1] : start[1] + shape[1] // 2 + 1, start[2] :] = True
    images = {}
    for modality in MODALITIES:
        volume = np.where(brain, rng.integers(1, 900, size=shape), 0).astype(np.int16)
        images[modality] = folder / f"{modality}.nii"
        nib.save(nib.Nifti1Image(volume, affine), images[modality])
    label = np.where(brain, rng.choice(scheme.values, size=shape), 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(label, affine), folder / "seg.nii")
    case = CaseFiles("case7", "case7", "unknown", "brats2021", images, folder / "seg.nii")
    return case, label, affine


@settings(deadline=None, max_examples=40)
@given(
    shapes, orientations, st.integers(0, 3), st.sampled_from(sorted(SCHEMES)), st.integers(0, 99)
)
def test_preprocess_then_restore_is_exact(tmp_path_factory, shape, axes, margin, name, seed):
    folder = tmp_path_factory.mktemp("case")
    scheme = get_scheme(name)
    case, label, affine = case_on_disk(folder, shape, axes, (1, 1, 1), scheme, seed)
    prepared = prepare_case(case, NativeRecipe(margin_voxels=margin), scheme)
    restored = restore(prepared.label, prepared.meta, linear=False)
    np.testing.assert_array_equal(restored, label)
    np.testing.assert_allclose(prepared.meta.affine_matrix, affine)
    path = folder / "prediction.nii.gz"
    write_label_map(path, restored, prepared.meta.affine)
    written = nib.load(path)
    np.testing.assert_array_equal(np.asarray(written.dataobj), label)
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    # The stored image, restored, is background exactly where the case is.
    whole = restore(prepared.image, prepared.meta, linear=False)
    voxels = np.asarray(nib.load(case.images["t1n"]).dataobj)
    assert not whole[:, voxels == 0].any()


@settings(deadline=None, max_examples=25)
@given(
    shapes,
    orientations,
    st.tuples(*[st.sampled_from([0.5, 0.9, 1.0, 2.0, 5.5])] * 3),
    st.sampled_from([NativeRecipe(), Resize128Recipe(shape=(8, 8, 8))]),
    st.integers(0, 99),
)
def test_restoring_from_any_grid_keeps_shape_and_values(
    tmp_path_factory, shape, axes, spacing, recipe, seed
):
    folder = tmp_path_factory.mktemp("case")
    scheme = get_scheme("brats2021")
    case, label, _ = case_on_disk(folder, shape, axes, spacing, scheme, seed)
    try:
        prepared = prepare_case(case, recipe, scheme)
    except DataError as error:  # a handful of voxels can all be lost on the way to 1 mm
        assert "variance" in error.reason or "empty" in error.reason  # noqa: PT017
        return
    restored = restore(prepared.label, prepared.meta, linear=False)
    assert restored.shape == shape
    assert set(np.unique(restored)) <= set(scheme.values)
    probabilities = restore((prepared.label > 0)[None], prepared.meta, linear=True)
    assert probabilities.shape == (1, *shape)
    assert probabilities.min() >= 0
    assert probabilities.max() <= 1
    if prepared.reference is not None:
        np.testing.assert_array_equal(prepared.reference, label)


VALID = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4)).to_bytes()


@settings(deadline=None, max_examples=400)
@given(
    st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_mutated_headers_are_read_or_refused_in_one_sentence(changes, zipped, repair):
    content = bytearray(VALID)
    for position, value in changes:
        content[position] = value
    data = gzip.compress(bytes(content), 1) if zipped else bytes(content)
    name = "a.nii.gz" if zipped else "a.nii"
    with np.errstate(all="raise"):
        try:
            volume = decode_volume(data, name, "case7", repair=repair)
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017
            return
    assert volume.data.ndim == 3
    assert np.isfinite(volume.affine).all()
    assert np.linalg.matrix_rank(volume.affine) == 4


def test_five_thousand_mutated_headers_give_no_other_error():
    rng = np.random.default_rng(0)
    for _ in range(5000):
        content = bytearray(VALID)
        for _ in range(int(rng.integers(1, 12))):
            content[int(rng.integers(0, 352))] = int(rng.integers(0, 256))
        for channels in (1, 4):
            try:
                decode_volume(bytes(content), "a.nii", "case7", channels=channels)
            except DataError:
                continue
