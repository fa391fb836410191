"""The preprocess entry point, and how other entry points come by a store."""

from __future__ import annotations

import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

from bratsml.config import build_config, with_overrides
from bratsml.data.recipes import NativeRecipe, Resize128Recipe
from bratsml.errors import ConfigError, DataError
from bratsml.experiment import Experiment
from bratsml.workflows.preprocess import ensure_store, preprocess, recipe_named, store_path
from bratsml.workflows.request import store_of


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def raw(tmp_path) -> Path:
    for number in range(2):
        case_id = f"BraTS2021_0000{number}"
        folder = tmp_path / "brats" / case_id
        folder.mkdir(parents=True)
        rng = np.random.default_rng(number)
        for suffix in ("t1", "t1ce", "t2", "flair"):
            volume = rng.integers(1, 900, size=(6, 6, 6)).astype(np.int16)
            nib.save(nib.Nifti1Image(volume, np.eye(4)), folder / f"{case_id}_{suffix}.nii.gz")
        label = np.zeros((6, 6, 6), dtype=np.uint8)
        label[2:4, 2:4, 2:4] = 4
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / f"{case_id}_seg.nii.gz")
    return tmp_path / "brats"


def quiet(**options):
    text = io.StringIO()
    return text, {"progress": False, "workers": 1, "console": Console(file=text), **options}


def test_summary_of_a_first_and_a_second_run(raw, tmp_path):
    text, options = quiet()
    store = preprocess(str(raw), str(tmp_path / "out"), "native", **options)
    assert len(store.case_ids) == 2
    assert "2 cases in store out (recipe native): 2 preprocessed in" in text.getvalue()
    text, options = quiet()
    preprocess(raw, tmp_path / "out", "native", **options)
    assert "0 preprocessed" in text.getvalue()
    assert "2 already there, 0 rejected" in text.getvalue()


def test_rejected_cases_are_shown_before_the_error(raw, tmp_path):
    (raw / "BraTS2021_00001" / "BraTS2021_00001_t2.nii.gz").unlink()
    text, options = quiet()
    with pytest.raises(DataError, match="--allow-rejected"):
        preprocess(raw, tmp_path / "out", **options)
    assert "missing modality t2w" in " ".join(text.getvalue().split())
    assert preprocess(raw, tmp_path / "out", allow_rejected=True, **options).case_ids == (
        "BraTS2021_00000",
    )


def test_a_raw_folder_is_kept_and_reused(raw, tmp_path):
    text, options = quiet()
    first = ensure_store(raw, NativeRecipe(), **options)
    assert first.path.parent == tmp_path / "data" / "stores"
    assert first.path.name.startswith("brats-native-")
    text, options = quiet()
    assert ensure_store(raw, NativeRecipe(), **options).path == first.path
    assert "0 preprocessed" in text.getvalue()


def test_a_store_is_taken_as_it_is(raw):
    _, options = quiet()
    store = ensure_store(raw, NativeRecipe(), **options)
    assert ensure_store(store.path, NativeRecipe(), **options).path == store.path
    assert ensure_store(store.path, **options).path == store.path
    with pytest.raises(ConfigError, match=r"change data\.recipe"):
        ensure_store(store.path, Resize128Recipe(), **options)
    with pytest.raises(ConfigError, match="holds labels of scheme brats2021"):
        ensure_store(store.path, label_scheme="brats2023", **options)


def test_kept_stores_are_told_apart(tmp_path):
    paths = {
        store_path(tmp_path / "a" / "brats", NativeRecipe()),
        store_path(tmp_path / "b" / "brats", NativeRecipe()),
        store_path(tmp_path / "b" / "brats", NativeRecipe(margin_voxels=0)),
        store_path(tmp_path / "b" / "brats", NativeRecipe(), "brats2023"),
        store_path(tmp_path / "b" / "brats", NativeRecipe(), need_labels=False),
    }
    assert len(paths) == 5
    same = store_path(tmp_path / "a" / "brats", NativeRecipe(), "auto")
    assert same in paths


def test_unknown_recipes_and_missing_data():
    assert recipe_named("resize128") == Resize128Recipe()
    with pytest.raises(ConfigError, match="did you mean 'native'"):
        recipe_named("nativ")
    with pytest.raises(ConfigError, match="needs data=FOLDER"):
        preprocess("")


def test_training_may_go_on_without_rejected_cases(raw, tmp_path):
    (raw / "BraTS2021_00001" / "BraTS2021_00001_t2.nii.gz").unlink()
    strict = build_config(Experiment, {"name": "x"})
    with pytest.raises(DataError, match=r"data\.allow_rejected=true"):
        store_of(str(raw), strict, tmp_path)
    lenient = with_overrides(strict, {"data": {"allow_rejected": True}})
    assert store_of(str(raw), lenient, tmp_path).case_ids == ("BraTS2021_00000",)
    assert lenient.what_decides_the_result() == strict.what_decides_the_result()
