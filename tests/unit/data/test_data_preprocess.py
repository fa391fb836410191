"""A dataset into a store: quarantine, resuming, and what counts as unchanged."""

from __future__ import annotations

import csv
import gzip
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from raw_cases import LPS_1MM, SHAPE, brain_volumes, case_writer, save_nifti, tumour_label

from bratsml.data import preprocess as module
from bratsml.data import process
from bratsml.data.preprocess import build_store, preprocess_dataset
from bratsml.data.recipes import RECIPE_VERSION, NativeRecipe
from bratsml.data.store import Store, read_case_meta
from bratsml.errors import ConfigError, DataError, ResourceError
from bratsml.files import sha256_of

RECIPE = NativeRecipe()
Paths = dict[str, Path]


def run(raw: Path, out: Path, **options):
    options = {"workers": 1, "progress": False, **options}
    return build_store(raw, out, options.pop("recipe", RECIPE), **options)


def content_of(store: Path) -> dict[str, bytes]:
    """Relative name to bytes of every stored case file."""
    files = sorted((store / "cases").rglob("*.*"))
    return {str(f.relative_to(store)): f.read_bytes() for f in files if f.is_file()}


def times_of(store: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (store / "cases").iterdir()}


# --- FAULTS: one mutation per kind; each must be refused for its reason -----------------------


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def rewrite(path: Path, change: Callable[[bytearray], None]) -> None:
    """Change the uncompressed bytes of a .nii.gz."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    change(content)
    path.write_bytes(gzip.compress(bytes(content)))


def field(offset: int, layout: str, *values: float) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        struct.pack_into(layout, content, offset, *values)

    return change


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def with_voxel(path: Path, value: float) -> None:
    data = np.asarray(nib.load(path).dataobj, dtype=np.float32)
    data[4, 5, 4] = value
    save_nifti(path, data)


def moved(path: Path, millimetres: float) -> None:
    affine = LPS_1MM.copy()
    affine[0, 3] += millimetres
    save_nifti(path, np.asarray(nib.load(path).dataobj), affine)


def flipped(path: Path) -> None:
    affine = LPS_1MM @ np.diag([-1.0, 1, 1, 1])
    affine[:3, 3] = LPS_1MM[:3, 3] + LPS_1MM[:3, 0] * (SHAPE[0] - 1)
    save_nifti(path, np.asarray(nib.load(path).dataobj), affine)


def bomb(path: Path) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<8h", content, 40, 3, 1500, 1500, 1500, 1, 1, 1, 1)
    path.write_bytes(gzip.compress(bytes(content)))


def all_modalities(paths: Paths, data: np.ndarray) -> None:
    for modality in brain_volumes():
        save_nifti(paths[modality], data)


MUTATIONS: dict[str, tuple[Callable[[Paths], object], str]] = {
    "truncated": (lambda p: cut(p["t1c"], 0.5), "truncated"),
    "no trailer": (lambda p: p["t1c"].write_bytes(p["t1c"].read_bytes()[:-8]), "gzip trailer"),
    "bit flipped": (lambda p: flip_bit(p["t1c"]), "corrupt|truncated"),
    "empty file": (lambda p: p["t1c"].write_bytes(b""), "empty (0 bytes)"),
    "html": (lambda p: p["t1c"].write_bytes(b"<html>no</html>"), "HTML"),
    "lfs": (lambda p: p["t1c"].write_bytes(b"version https://git-lfs.github.com"), "Git LFS"),
    "plain": (
        lambda p: p["t1c"].write_bytes(gzip.decompress(p["t1c"].read_bytes())),
        "uncompressed NIfTI named .gz",
    ),
    "bomb": (lambda p: bomb(p["t1c"]), "declares 6,437 MB"),
    "negative side": (lambda p: rewrite(p["t1c"], field(42, "<h", -10)), "dimension"),
    "zero side": (lambda p: rewrite(p["t1c"], field(42, "<h", 0)), "dimension"),
    "32767 a side": (lambda p: rewrite(p["t1c"], field(42, "<h", 32767)), "dimension"),
    "pixdim 0": (lambda p: rewrite(p["t1c"], field(80, "<f", 0.0)), "declares voxels of 0"),
    "pixdim -1": (lambda p: rewrite(p["t1c"], field(80, "<f", -1.0)), "declares voxels of -1"),
    "sform nan": (lambda p: rewrite(p["t1c"], field(280, "<f", np.nan)), "NaN"),
    "singular": (lambda p: rewrite(p["t1c"], field(280, "<f", 0.0)), "singular"),
    "slope": (lambda p: rewrite(p["t1c"], field(112, "<f", 1e38)), "scl_slope"),
    "rgb": (lambda p: rewrite(p["t1c"], field(70, "<hh", 128, 24)), "RGB"),
    "complex": (lambda p: rewrite(p["t1c"], field(70, "<hh", 32, 64)), "complex"),
    "nan voxel": (lambda p: with_voxel(p["t1c"], np.nan), "1 NaN or infinite voxels"),
    "inf voxel": (lambda p: with_voxel(p["t1c"], np.inf), "1 NaN or infinite voxels"),
    "constant": (
        lambda p: save_nifti(p["t1c"], np.full(SHAPE, 3, np.int16)),
        "zero variance: every voxel is 3",
    ),
    "zero modality": (lambda p: save_nifti(p["t1c"], np.zeros(SHAPE, np.int16)), "zero variance"),
    "no foreground": (
        lambda p: all_modalities(p, np.zeros(SHAPE, np.int16)),
        "foreground is empty",
    ),
    "shifted": (lambda p: moved(p["t1c"], 10), "10.0 mm away"),
    "flipped": (lambda p: flipped(p["t1c"]), "9.0 mm away"),
    "label shifted": (lambda p: moved(p["label"], 10), "10.0 mm away"),
    "other shape": (
        lambda p: save_nifti(p["t1c"], brain_volumes()["t1c"][:-1]),
        "has shape 9x12x8",
    ),
    "4-D": (lambda p: save_nifti(p["t1c"], brain_volumes()["t1c"][..., None]), "4 dimensions"),
    "missing": (lambda p: p["t1c"].unlink(), "missing modality t1c"),
    "no label": (lambda p: p["label"].unlink(), "missing label map"),
    "same file": (lambda p: shutil.copy(p["t1n"], p["t1c"]), "same volume is given as t1n and t1c"),
    "same volume": (
        lambda p: p["t1c"].write_bytes(gzip.compress(gzip.decompress(p["t1n"].read_bytes()), 1)),
        "same volume is given as t1n and t1c",
    ),
    "image as label": (
        lambda p: shutil.copy(p["t2f"], p["label"]),
        "same file is given as t2f and label",
    ),
    "label 3.9": (
        lambda p: save_nifti(p["label"], tumour_label().astype(np.float32) * 0.975),
        "3.9 (8 voxels)",
    ),
    "label 3": (
        lambda p: save_nifti(p["label"], np.where(tumour_label() == 4, 3, tumour_label())),
        "3 (8 voxels)",
    ),
    "label 5": (
        lambda p: save_nifti(p["label"], np.where(tumour_label() == 4, 5, tumour_label())),
        "5 (8 voxels)",
    ),
    "label -1": (
        lambda p: save_nifti(p["label"], -(tumour_label() == 4).astype(np.int16)),
        "-1 (8 voxels)",
    ),
    "label nan": (lambda p: with_voxel(p["label"], np.nan), "nan (1 voxels)"),
}


def test_every_corruption_is_refused_for_its_reason_and_the_others_go_on(tmp_path):
    clean, dirty = tmp_path / "clean", tmp_path / "dirty"
    for case_id in ("BraTS2021_00000", "BraTS2021_99999"):
        case_writer(clean)(case_id)
        shutil.copytree(clean / case_id, dirty / case_id)
    expected = {}
    for number, (mutate, reason) in enumerate(MUTATIONS.values(), start=1):
        case_id = f"BraTS2021_{number:05d}"
        mutate(case_writer(dirty)(case_id))
        expected[case_id] = reason
    report = run(dirty, tmp_path / "store")
    with (tmp_path / "store" / "rejected.csv").open() as stream:
        rows = {row["case"]: row for row in csv.DictReader(stream)}
    assert rows.keys() == expected.keys()
    for case_id, reason in expected.items():
        assert any(part in rows[case_id]["reason"] for part in reason.split("|")), rows[case_id]
        assert rows[case_id]["remedy"]
    assert report.num_done == 2
    run(clean, tmp_path / "clean_store")
    assert content_of(tmp_path / "store") == content_of(tmp_path / "clean_store")


# --- what the run leaves and how it ends -------------------------------------------------------


def test_the_store_of_a_clean_folder(raw, write_raw_case, tmp_path):
    for number in (1, 0):
        write_raw_case(f"BraTS2021_0000{number}", seed=number)
    store = preprocess_dataset(raw, tmp_path / "store", RECIPE, workers=1, progress=False)
    assert store.case_ids == ("BraTS2021_00000", "BraTS2021_00001")
    assert (store.recipe, store.label_scheme) == (RECIPE, "brats2021")
    assert (tmp_path / "store" / "rejected.csv").read_text() == "case,file,reason,remedy\n"


def test_rejected_cases_end_in_an_error_unless_allowed(raw, write_raw_case, tmp_path):
    write_raw_case("BraTS2021_00000")
    write_raw_case("BraTS2021_00001")["t2w"].unlink()
    options = {"workers": 1, "progress": False}
    with pytest.raises(DataError, match=r"1 of 2 cases were rejected, first BraTS2021_00001"):
        preprocess_dataset(raw, tmp_path / "store", RECIPE, **options)
    assert Store.open(tmp_path / "store").case_ids == ("BraTS2021_00000",)
    store = preprocess_dataset(raw, tmp_path / "store", RECIPE, allow_rejected=True, **options)
    assert store.index.rejected == 1


def test_no_usable_case_is_an_error_even_when_rejections_are_allowed(raw, write_raw_case, tmp_path):
    write_raw_case()["t2w"].unlink()
    with pytest.raises(DataError, match="1 of 1 cases"):
        preprocess_dataset(
            raw, tmp_path / "store", RECIPE, workers=1, progress=False, allow_rejected=True
        )


def test_a_second_run_reads_nothing(raw, write_raw_case, tmp_path, monkeypatch):
    write_raw_case()
    write_raw_case("BraTS2021_00001", seed=1)["t2w"].write_bytes(b"")
    first = run(raw, tmp_path / "store")
    before = times_of(tmp_path / "store"), content_of(tmp_path / "store")
    monkeypatch.setattr(module, "run_each", lambda *_: pytest.fail("a case was read again"))
    second = run(raw, tmp_path / "store")
    assert (first.num_done, second.num_done, second.num_skipped) == (1, 0, 1)
    assert [str(e) for e in second.rejected] == [str(e) for e in first.rejected]
    assert (times_of(tmp_path / "store"), content_of(tmp_path / "store")) == before


def test_a_changed_file_is_done_again_and_changes_the_hash(raw, write_raw_case, tmp_path):
    paths = write_raw_case()
    write_raw_case("BraTS2021_00001", seed=1)
    run(raw, tmp_path / "store")
    before = Store.open(tmp_path / "store").dataset_hash, times_of(tmp_path / "store")
    save_nifti(paths["t1n"], brain_volumes(5)["t1n"])
    report = run(raw, tmp_path / "store")
    assert (report.num_done, report.num_skipped) == (1, 1)
    store = Store.open(tmp_path / "store")
    assert store.dataset_hash != before[0]
    after = times_of(tmp_path / "store")
    assert after["BraTS2021_00001"] == before[1]["BraTS2021_00001"]
    mean = store.meta("BraTS2021_00000").intensities["t1n"].mean
    volume = brain_volumes(5)["t1n"]
    assert mean == pytest.approx(volume[volume > 0].mean())


def test_a_change_that_keeps_size_and_time_is_still_seen(raw, write_raw_case, tmp_path):
    paths = write_raw_case(ending=".nii")
    run(raw, tmp_path / "store")
    status = paths["t1n"].stat()
    save_nifti(paths["t1n"], brain_volumes(5)["t1n"])
    os.utime(paths["t1n"], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert paths["t1n"].stat().st_size == status.st_size
    assert run(raw, tmp_path / "store").num_done == 1


def test_touched_files_are_hashed_but_not_done_again(raw, write_raw_case, tmp_path):
    paths = write_raw_case()
    run(raw, tmp_path / "store")
    before = times_of(tmp_path / "store")
    for path in paths.values():
        os.utime(path)
    report = run(raw, tmp_path / "store")
    assert (report.num_done, report.num_skipped) == (0, 1)
    assert times_of(tmp_path / "store") == before


def test_a_moved_folder_is_not_done_again(raw, write_raw_case, tmp_path):
    write_raw_case()
    run(raw, tmp_path / "store")
    raw.rename(tmp_path / "elsewhere")
    assert run(tmp_path / "elsewhere", tmp_path / "store").num_done == 0


@pytest.mark.parametrize("what", ["recipe", "version", "scheme"])
def test_another_recipe_version_or_scheme_is_done_again(
    raw, write_raw_case, tmp_path, monkeypatch, what
):
    write_raw_case()
    run(raw, tmp_path / "store")
    options: dict[str, object] = {}
    if what == "recipe":
        options["recipe"] = NativeRecipe(margin_voxels=0)
    elif what == "version":
        monkeypatch.setitem(RECIPE_VERSION, "native", 99)
    else:
        options["label_scheme"] = "brats2024-ped"  # knows 1, 2 and 4 too
    assert run(raw, tmp_path / "store", **options).num_done == 1


def test_a_mended_case_joins_and_a_broken_one_leaves(raw, write_raw_case, tmp_path):
    write_raw_case("BraTS2021_00000")
    good = write_raw_case("BraTS2021_00001", seed=1)["t2w"]
    content = good.read_bytes()
    good.write_bytes(content[:-8])
    assert len(run(raw, tmp_path / "store").rejected) == 1
    good.write_bytes(content)
    assert run(raw, tmp_path / "store").num_done == 1
    assert len(Store.open(tmp_path / "store").case_ids) == 2
    good.write_bytes(content[:-8])
    run(raw, tmp_path / "store")
    assert Store.open(tmp_path / "store").case_ids == ("BraTS2021_00000",)


def test_an_interrupted_run_goes_on_where_it_was(raw, write_raw_case, tmp_path, monkeypatch):
    for number in range(3):
        write_raw_case(f"BraTS2021_0000{number}", seed=number)
    real, calls = module.process_case, []

    def dies_at_the_third(task):
        calls.append(task.case.id)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(module, "process_case", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(raw, tmp_path / "store")
    with pytest.raises(DataError, match="is not a finished store"):
        Store.open(tmp_path / "store")
    monkeypatch.setattr(module, "process_case", real)
    report = run(raw, tmp_path / "store")
    assert (report.num_done, report.num_skipped) == (1, 2)


def test_a_lost_ledger_costs_hashing_only(raw, write_raw_case, tmp_path):
    write_raw_case()
    run(raw, tmp_path / "store")
    (tmp_path / "store" / ".ledger.json").write_text("{ half a")
    before = times_of(tmp_path / "store")
    assert run(raw, tmp_path / "store").num_done == 0
    assert times_of(tmp_path / "store") == before


def test_leftovers_of_a_killed_run_are_removed(raw, write_raw_case, tmp_path):
    write_raw_case()
    leftover = tmp_path / "store" / "cases" / ".BraTS2021_00000.abc"
    leftover.mkdir(parents=True)
    (leftover / "image.npy").write_bytes(b"half")
    run(raw, tmp_path / "store")
    assert [p.name for p in (tmp_path / "store" / "cases").iterdir()] == ["BraTS2021_00000"]


def test_a_manifest_shows_damage_that_the_format_cannot(raw, write_raw_case, tmp_path):
    paths = write_raw_case(ending=".nii")
    lines = [f"{sha256_of(p)}  {p.relative_to(raw)}\n" for p in paths.values()]
    (raw / "SHA256SUMS").write_text("".join(lines))
    assert run(raw, tmp_path / "store").num_done == 1
    flip_bit(paths["t1c"])  # a voxel of a plain .nii: loads without complaint
    (error,) = run(raw, tmp_path / "store").rejected
    assert (error.file, "manifest" in error.reason) == (paths["t1c"].name, True)
    elsewhere = tmp_path / "sums.txt"
    elsewhere.write_text(f"{sha256_of(paths['t1c'])} *raw/{paths['t1c'].relative_to(raw)}\n")
    assert run(raw, tmp_path / "store", manifest=elsewhere).num_done == 1


def test_a_manifest_that_comes_later_is_heeded(raw, write_raw_case, tmp_path):
    paths = write_raw_case()
    run(raw, tmp_path / "store")
    (raw / "SHA256SUMS").write_text(f"{'0' * 64}  {paths['t1c'].relative_to(raw)}\n")
    (error,) = run(raw, tmp_path / "store").rejected
    assert "manifest" in error.reason


def test_a_manifest_that_is_none(raw, write_raw_case, tmp_path):
    write_raw_case()
    (raw / "SHA256SUMS").write_text("hello world\n")
    with pytest.raises(ConfigError, match="line 1: expected"):
        run(raw, tmp_path / "store")


def test_cases_without_label_where_none_is_needed(raw, write_raw_case, tmp_path):
    write_raw_case()["label"].unlink()
    write_raw_case("BraTS2021_00001", seed=1)
    run(raw, tmp_path / "store", need_labels=False)
    store = Store.open(tmp_path / "store")
    assert store.label("BraTS2021_00000") is None
    assert store.reference("BraTS2021_00000") is None
    np.testing.assert_array_equal(store.reference("BraTS2021_00001"), tumour_label())


def test_folders_that_cannot_be_written(raw, write_raw_case, tmp_path):
    write_raw_case()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match="choose another folder"):
        run(raw, tmp_path / "file" / "store")


def test_two_processes_give_the_same_store_as_one(raw, write_raw_case, tmp_path):
    for number in range(3):
        write_raw_case(f"BraTS2021_0000{number}", seed=number)
    write_raw_case("BraTS2021_00003")["t1c"].write_bytes(b"")
    run(raw, tmp_path / "one")
    report = run(raw, tmp_path / "two", workers=2)
    assert content_of(tmp_path / "one") == content_of(tmp_path / "two")
    assert [e.case for e in report.rejected] == ["BraTS2021_00003"]
    one, two = Store.open(tmp_path / "one"), Store.open(tmp_path / "two")
    assert one.dataset_hash == two.dataset_hash
    assert read_case_meta(tmp_path / "two", "BraTS2021_00002") == one.meta("BraTS2021_00002")


@pytest.mark.parametrize(
    ("error", "told"),
    [(MemoryError(), "does not fit into memory"), (IndexError("odd\n"), r"IndexError: odd\n")],
)
def test_what_goes_wrong_with_one_case_does_not_cost_the_others(tmp_path, monkeypatch, error, told):
    for case_id in ("BraTS2021_00000", "BraTS2021_00001"):
        case_writer(tmp_path / "raw")(case_id)
    prepare = process.prepare_raw_case

    def fail(raw, *others, **named):
        if raw.case.id.endswith("0"):
            raise error
        return prepare(raw, *others, **named)

    monkeypatch.setattr(process, "prepare_raw_case", fail)
    report = run(tmp_path / "raw", tmp_path / "store")
    assert [(e.case, told in e.reason) for e in report.rejected] == [("BraTS2021_00000", True)]
    assert report.num_usable == 1
    monkeypatch.undo()
    assert run(tmp_path / "raw", tmp_path / "store").num_usable == 2
