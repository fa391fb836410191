"""Extra cases are trained on and nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
from raw_cases import case_writer

from bratsml.data.extra import StoreWithExtra, extra_of, split_of
from bratsml.data.folds import SplitConfig
from bratsml.data.loader import LoaderConfig, PatchLoader
from bratsml.data.preprocess import preprocess_dataset
from bratsml.data.recipes import NativeRecipe
from bratsml.data.slices import read_slices
from bratsml.data.store import Store
from bratsml.errors import ConfigError

MakeStore = Callable[..., Store]
MAIN = [f"BraTS2021_0000{number}" for number in range(4)]
EXTRA = ["BraTS-SSA-00001-000", "BraTS-SSA-00002-000"]


@pytest.fixture(scope="module")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> MakeStore:
    """Case ``i`` is written with ``seed + i``."""

    def make(name: str, ids: list[str], seed: int, scheme: str, margin: int = 4) -> Store:
        tmp_path = tmp_path_factory.mktemp(name)
        write = case_writer(tmp_path / name)
        for number, case_id in enumerate(ids):
            write(case_id, seed=seed + number)
        return preprocess_dataset(
            tmp_path / name,
            tmp_path / f"{name}_store",
            NativeRecipe(margin_voxels=margin),
            scheme,
            workers=1,
            progress=False,
        )

    return make


@pytest.fixture(scope="module")
def main(make_store: MakeStore) -> Store:
    return make_store("main", MAIN, 0, "brats2021")


@pytest.fixture(scope="module")
def both(make_store: MakeStore, main: Store) -> StoreWithExtra:
    return StoreWithExtra(main, make_store("extra", EXTRA, 10, "brats2021"))


def test_extra_cases_are_trained_on_in_every_fold_and_found_nowhere_else(
    main: Store, both: StoreWithExtra
) -> None:
    config = SplitConfig(folds=2, test_fraction=0.25)
    split, plain = split_of(both, config), split_of(main, config)
    assert (split.folds, split.test) == (plain.folds, plain.test)
    assert split.hash != plain.hash
    for fold in (0, 1):
        assert set(split.training(fold)) == {*plain.training(fold), *EXTRA}
        assert split.validation(fold) == plain.validation(fold)
    assert both.case_ids == main.case_ids
    assert [meta.id for meta in both.metas()] == list(main.case_ids)


def test_the_hash_stays_the_data_s_own_and_the_extra_has_another(
    main: Store, both: StoreWithExtra
) -> None:
    assert both.dataset_hash == main.dataset_hash
    extra = extra_of(both)
    assert extra is not None
    assert extra.dataset_hash not in ("", main.dataset_hash)
    assert extra_of(main) is None


def test_a_loader_reads_patches_of_both(both: StoreWithExtra) -> None:
    config = LoaderConfig(patch=(4, 4, 4), augment=(), workers=0)
    store = pickle.loads(pickle.dumps(both))
    ids = split_of(store, SplitConfig(folds=2)).training(0)
    seen = {c for batch in PatchLoader(store, ids, config, seed=0).epoch(0) for c in batch.case_ids}
    assert seen == set(ids) > set(EXTRA)


def test_label_values_are_translated_to_the_data_s_scheme(
    make_store: MakeStore, main: Store
) -> None:
    decathlon = make_store("other", MAIN, 20, "brats2021")
    # the tissues' values of the decathlon: 2 necrosis, 1 oedema, 3 enhancing
    wanted = Store(decathlon.path, decathlon.index.model_copy(update={"cases": {}}), [])
    wanted.label_scheme = "decathlon"
    both = StoreWithExtra(wanted, main)
    raw, label = np.asarray(main.label(MAIN[0])), both.label(MAIN[0])
    assert label is not None
    assert (label.dtype, label.shape) == (np.uint8, raw.shape)
    for theirs, ours in {0: 0, 1: 2, 2: 1, 4: 3}.items():
        np.testing.assert_array_equal(np.asarray(label) == ours, raw == theirs)


def test_slices_of_extra_cases_are_read_in_the_data_s_scheme_and_copied_in_their_own(
    make_store: MakeStore, main: Store
) -> None:
    extra = make_store("slices", EXTRA, 30, "brats2021")
    wanted = Store(main.path, main.index, main.case_ids)
    wanted.label_scheme = "decathlon"
    both, raw = StoreWithExtra(wanted, extra), np.asarray(extra.label(EXTRA[0]))
    for _ in range(2):  # making the copies, then reading them
        image, label, first = read_slices(both, EXTRA[0], 2, 3)
        assert first == 2
        np.testing.assert_array_equal(image, extra.image(EXTRA[0])[..., 2:5])
        for theirs, ours in {0: 0, 1: 2, 2: 1, 4: 3}.items():
            np.testing.assert_array_equal(label == ours, raw[..., 2:5] == theirs)
    np.testing.assert_array_equal(read_slices(extra, EXTRA[0], 2, 3)[1], raw[..., 2:5])


def test_other_tissues_are_refused(make_store: MakeStore, main: Store) -> None:
    extra = make_store("extra", EXTRA, 10, "brats2021")
    extra.label_scheme = "brats2024-gli"
    with pytest.raises(ConfigError, match=r"scheme brats2024-gli \(NETC, SNFH, ET, RC\)"):
        StoreWithExtra(main, extra)


def test_a_patient_of_both_is_refused(make_store: MakeStore, main: Store) -> None:
    extra = make_store("extra", [*EXTRA, MAIN[2]], 10, "brats2021")
    with pytest.raises(ConfigError, match=f"holds patients of the data itself \\({MAIN[2]}\\)"):
        StoreWithExtra(main, extra)


def test_a_scan_of_both_under_another_name_is_refused(make_store: MakeStore, main: Store) -> None:
    extra = make_store("extra", EXTRA, 3, "brats2021")  # the first has the seed of MAIN[3]
    with pytest.raises(ConfigError, match=f"{EXTRA[0]} is {MAIN[3]}"):
        StoreWithExtra(main, extra)


def test_another_recipe_is_refused(make_store: MakeStore, main: Store) -> None:
    extra = make_store("extra", EXTRA, 10, "brats2021", margin=0)
    with pytest.raises(ConfigError, match="was made by recipe"):
        StoreWithExtra(main, extra)
