"""Small files that would take gigabytes, and large ones that hold nothing: refused by the header.

Memory is counted by ``tracemalloc``, which sees what NumPy and zlib's output take.
"""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from raw_cases import SHAPE, SUFFIXES, brain_volumes, save_nifti

from bratsml.data.cases import discover_cases
from bratsml.data.prepare import prepare_case
from bratsml.data.recipes import NativeRecipe, Resize128Recipe
from bratsml.errors import DataError
from bratsml.labels import get_scheme

MOST_BYTES = 50_000_000
CASE = "BraTS2021_00000"


def plain(data: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    return nib.Nifti1Image(data, np.eye(4) if affine is None else affine).to_bytes()


def declaring(side: int, code: int, bits: int) -> bytes:
    """A header of that many voxels a side."""
    content = bytearray(plain(np.ones((2, 2, 2), np.int16))[:352])
    struct.pack_into("<8h", content, 40, 3, side, side, side, 1, 1, 1, 1)
    struct.pack_into("<2h", content, 70, code, bits)
    return bytes(content)


def named_gzip(content: bytes, name_bytes: int) -> bytes:
    """A gzip file that claims to have had a very long name."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = packer.compress(content) + packer.flush()
    start = b"\x1f\x8b\x08\x08\0\0\0\0\0\xff" + b"A" * name_bytes + b"\0"
    return start + packed + struct.pack("<II", zlib.crc32(content), len(content))


def longer(path: Path, size: int) -> None:
    """Grow a file without filling the disk."""
    with path.open("r+b") as stream:
        stream.truncate(size)


GOOD = plain(brain_volumes()["t1n"])


def huge_voxels(path: Path) -> None:
    save_nifti(path, brain_volumes()["t1n"], np.diag([60, 60, 60, 1]))


BOMBS = {
    "huge voxels": (huge_voxels, "become 207 million at 1 mm"),
    "a long name in the gzip header": (
        lambda p: p.write_bytes(named_gzip(GOOD, 20_000_000)),
        "has 20 MB but no header",
    ),
    "a shorter one": (lambda p: p.write_bytes(named_gzip(GOOD, 2_000_000)), "is truncated"),
    "a second member with a long name": (
        lambda p: p.write_bytes(gzip.compress(GOOD) + named_gzip(b"x", 2_000_000)),
        "bytes packed, but its header declares",
    ),
    "a second member that is a bomb": (
        lambda p: p.write_bytes(gzip.compress(GOOD) + gzip.compress(bytes(200_000_000))),
        "unpacks to more than",
    ),
    "empty members": (
        lambda p: p.write_bytes(gzip.compress(GOOD) + gzip.compress(b"") * 30_000),
        "gzip members",
    ),
    "empty members first": (
        lambda p: p.write_bytes(gzip.compress(b"") * 60_000 + gzip.compress(GOOD)),
        "is truncated",
    ),
    "more than its header declares": (
        lambda p: p.write_bytes(gzip.compress(GOOD + bytes(200_000_000))),
        "unpacks to more than",
    ),
    "400 voxels a side in float64": (
        lambda p: p.write_bytes(gzip.compress(declaring(400, 64, 64))),
        "missing at the end",
    ),
    "420 voxels a side": (
        lambda p: p.write_bytes(gzip.compress(declaring(420, 2, 8))),
        "declares 74 million voxels",
    ),
    "a sparse file": (
        lambda p: (p.write_bytes(GOOD), longer(p, 1 << 32)),
        "bytes long, but its header declares",
    ),
    "a pipe": (lambda p: (p.unlink(), os.mkfifo(p)), "is a pipe, not a file"),
    "an endless device": (lambda p: (p.unlink(), p.symlink_to("/dev/zero")), "is a device"),
}  # fmt: skip
UNZIPPED = {"a sparse file"}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_little_memory(raw: Path, write_raw_case, name: str) -> None:
    explode, told = BOMBS[name]
    paths = write_raw_case(CASE, ending=".nii" if name in UNZIPPED else ".nii.gz")
    explode(paths["t1n"])
    (case,) = discover_cases(raw, need_labels=False).cases
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=told):
            prepare_case(case, NativeRecipe(), get_scheme("brats2021"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 400 voxels a side are within the limits, so room is made for them, though never touched
    assert peak < MOST_BYTES or name.startswith("400 voxels")


def test_four_volumes_that_are_too_much_together_are_refused(raw: Path) -> None:
    folder = raw / CASE
    folder.mkdir(parents=True)
    for number, suffix in enumerate(SUFFIXES.values()):
        content = gzip.compress(declaring(400, 16, 32), mtime=number)
        (folder / f"{CASE}_{suffix}.nii.gz").write_bytes(content)
    (case,) = discover_cases(raw, need_labels=False).cases
    with pytest.raises(DataError, match="its files hold 977 MB unpacked, more than the 704 MB"):
        prepare_case(case, NativeRecipe(), get_scheme("brats2021"))


@pytest.mark.parametrize("recipe", [NativeRecipe(), Resize128Recipe(shape=(8, 8, 8))])
def test_thick_slices_of_a_scanner_are_no_bomb(raw: Path, recipe) -> None:
    folder = raw / CASE
    folder.mkdir(parents=True)
    for modality, suffix in SUFFIXES.items():
        affine = np.diag([0.5, 0.5, 6.0, 1])
        save_nifti(folder / f"{CASE}_{suffix}.nii.gz", brain_volumes()[modality], affine)
    (case,) = discover_cases(raw, need_labels=False).cases
    prepared = prepare_case(case, recipe, get_scheme("brats2021"))
    assert prepared.meta.resampled_shape == (SHAPE[0] // 2, SHAPE[1] // 2, SHAPE[2] * 6)
