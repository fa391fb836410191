"""Folders of label maps in the ways people keep them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bratsml.data.label_files import find_label_files
from bratsml.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


@pytest.mark.parametrize(
    "names",
    [
        ("b.nii.gz", "a.nii.gz", "notes.txt"),
        ("a-seg.nii.gz", "b_seg.nii", "other.nii.gz"),
        ("a/a_seg.nii.gz", "b/b_seg.nii.gz", "b/b_thing.nii.gz"),
    ],
)
def test_flat_suffixed_and_nested(tmp_path, names):
    touch(tmp_path, *names)
    assert list(find_label_files(tmp_path)) == ["a", "b"]


def test_whole_cases_give_their_label_maps(tmp_path):
    case = "BraTS2021_00000"
    suffixes = ("t1", "t1ce", "t2", "flair", "seg")
    touch(tmp_path, *(f"{case}/{case}_{suffix}.nii.gz" for suffix in suffixes))
    (found,) = find_label_files(tmp_path).items()
    assert found == (case, tmp_path / case / f"{case}_seg.nii.gz")


def test_what_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        find_label_files(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no label map"):
        find_label_files(tmp_path)
    touch(tmp_path, "a.nii", "a.nii.gz")
    with pytest.raises(DataError, match=r"a: a\.nii\.gz: is there twice"):
        find_label_files(tmp_path)
