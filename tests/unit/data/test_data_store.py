"""The store: what it gives back, and what it refuses."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from raw_cases import tumour_label

from bratsml.data.preprocess import preprocess_dataset
from bratsml.data.recipes import NativeRecipe, Resize128Recipe
from bratsml.data.store import Store, write_case
from bratsml.errors import ConfigError, DataError


@pytest.fixture
def store(raw, write_raw_case, tmp_path) -> Store:
    for number in range(3):
        write_raw_case(f"BraTS2021_0000{number}", seed=number)
    return preprocess_dataset(raw, tmp_path / "store", NativeRecipe(), workers=1, progress=False)


def test_arrays_are_memory_maps(store):
    image, label = store.image("BraTS2021_00001"), store.label("BraTS2021_00001")
    assert isinstance(image, np.memmap)
    assert isinstance(label, np.memmap)
    assert (image.dtype, label.dtype) == (np.float16, np.uint8)
    assert image.flags.c_contiguous
    assert image.shape == (4, *label.shape) == (4, *store.meta("BraTS2021_00001").shape)


def test_reference_is_the_label_map_of_the_file(store, raw, tmp_path):
    np.testing.assert_array_equal(store.reference("BraTS2021_00000"), tumour_label())
    squeezed = preprocess_dataset(
        raw, tmp_path / "cube", Resize128Recipe(shape=(8, 8, 8)), workers=1, progress=False
    )
    np.testing.assert_array_equal(squeezed.reference("BraTS2021_00000"), tumour_label())


def test_a_store_survives_pickling(store):
    store.meta("BraTS2021_00000")
    copy = pickle.loads(pickle.dumps(store))
    assert copy.case_ids == store.case_ids
    np.testing.assert_array_equal(copy.image("BraTS2021_00002"), store.image("BraTS2021_00002"))


def test_a_subset_has_its_own_hash(store):
    subset = store.subset(["BraTS2021_00002", "BraTS2021_00000"])
    assert subset.case_ids == ("BraTS2021_00000", "BraTS2021_00002")
    assert subset.dataset_hash != store.dataset_hash
    assert store.subset(store.case_ids).dataset_hash == store.dataset_hash
    with pytest.raises(DataError, match="nobody: is not in store"):
        store.subset(["nobody"])


def test_unknown_cases_are_refused(store):
    for get in (store.meta, store.image, store.label, store.reference):
        with pytest.raises(DataError, match="nobody: is not in store"):
            get("nobody")


@pytest.mark.parametrize("damage", ["missing", "cut", "text"])
def test_damaged_arrays_name_the_case_and_the_way_out(store, damage):
    path = store.path / "cases" / "BraTS2021_00001" / "image.npy"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.write_text("hello")
    with pytest.raises(DataError, match=r"BraTS2021_00001: image.npy: is missing or damaged"):
        store.image("BraTS2021_00001")


def test_damaged_meta(store):
    path = store.path / "cases" / "BraTS2021_00001" / "case.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(DataError, match=r"case.json: is missing or damaged"):
        Store.open(store.path).meta("BraTS2021_00001")


def test_what_is_not_a_store(tmp_path, store):
    with pytest.raises(DataError, match="is not a finished store"):
        Store.open(tmp_path)
    index = store.path / "store.json"
    tree = json.loads(index.read_text())
    index.write_text(json.dumps(tree | {"format": 99}))
    with pytest.raises(DataError, match="has format 99"):
        Store.open(store.path)
    index.write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        Store.open(store.path)


def test_another_recipe_is_refused(store):
    store.require_recipe(NativeRecipe())
    with pytest.raises(ConfigError, match=r"give the raw cases or change data\.recipe"):
        store.require_recipe(NativeRecipe(margin_voxels=9))


def test_a_failed_write_leaves_the_old_case(store):
    before = np.array(store.image("BraTS2021_00000"))
    meta = store.meta("BraTS2021_00000")

    class Explosive:
        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise RuntimeError("no array today")

    with pytest.raises(RuntimeError):
        write_case(store.path, meta, {"image.npy": np.zeros(3), "label.npy": Explosive()})
    np.testing.assert_array_equal(store.image("BraTS2021_00000"), before)
    assert len(list((store.path / "cases").iterdir())) == 3


def test_a_case_is_replaced_as_a_whole(store):
    write_case(store.path, store.meta("BraTS2021_00000"), {"image.npy": np.ones((4, 1, 1, 1))})
    folder = store.path / "cases" / "BraTS2021_00000"
    assert sorted(p.name for p in folder.iterdir()) == ["case.json", "image.npy"]
    assert len(list((store.path / "cases").iterdir())) == 3
