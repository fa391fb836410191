"""Reading and writing NIfTI: every damage is seen, named and mended only on request."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bratsml.data.nifti import decode_volume, intensity_range, read_volume, write_label_map
from bratsml.errors import DataError

LPS = np.array([[-1, 0, 0, 5], [0, -2, 0, 11], [0, 0, 3, -7], [0, 0, 0, 1]], dtype=float)
VOXELS = np.arange(60, dtype=np.int16).reshape(3, 4, 5)

# Byte offsets of NIfTI-1 fields.
DIM, DATATYPE, BITPIX, PIXDIM, VOX_OFFSET, SLOPE, QFORM, SFORM, QUATERN, SROW = (
    40, 70, 72, 76, 108, 112, 252, 254, 256, 280,
)  # fmt: skip


def nifti(data: np.ndarray = VOXELS, affine: np.ndarray = LPS) -> bytes:
    image = nib.Nifti1Image(data, affine, dtype=data.dtype)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    return image.to_bytes()


def patched(offset: int, layout: str, *values: float, content: bytes | None = None) -> bytes:
    content = nifti() if content is None else content
    piece = struct.pack(layout, *values)
    return content[:offset] + piece + content[offset + len(piece) :]


def read(content: bytes, name: str = "a.nii", **options):
    return decode_volume(content, name, "case7", **options)


def reason_of(content: bytes, name: str = "a.nii", **options) -> str:
    with pytest.raises(DataError) as caught:
        read(content, name, **options)
    assert (caught.value.case, caught.value.file) == ("case7", name)
    assert caught.value.remedy
    return caught.value.reason


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8", "i8", "u8"])
def test_voxels_and_affine_of_every_type(dtype):
    volume = read(nifti(VOXELS.astype(dtype)))
    assert volume.data.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(volume.data, VOXELS)
    np.testing.assert_allclose(volume.affine, LPS)


def test_big_endian_nifti2_and_gzip_read_the_same(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.dtype(">i2"))
    big = nib.Nifti1Image(VOXELS, LPS, header)
    big.set_sform(LPS, code=1)
    np.testing.assert_array_equal(read(big.to_bytes()).data, VOXELS)
    second = nib.Nifti2Image(VOXELS, LPS)
    second.set_sform(LPS, code=1)
    np.testing.assert_array_equal(read(second.to_bytes()).data, VOXELS)
    zipped = gzip.compress(nifti())
    np.testing.assert_array_equal(read(zipped, "a.nii.gz").data, VOXELS)
    two_members = gzip.compress(nifti()[:400]) + gzip.compress(nifti()[400:]) + b"\0" * 512
    np.testing.assert_array_equal(read(two_members, "a.nii.gz").data, VOXELS)


def test_qform_is_used_where_there_is_no_sform():
    oblique = LPS.copy()
    angle = np.deg2rad(30)
    turn = [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    oblique[:3, :3] = turn @ LPS[:3, :3]
    content = patched(SFORM, "<h", 0, content=nifti(affine=oblique))
    np.testing.assert_allclose(read(content).affine, oblique, atol=1e-5)


def test_scaling_is_applied_and_nan_slope_means_none():
    scaled = read(patched(SLOPE, "<ff", 2.0, 10.0)).data
    np.testing.assert_array_equal(scaled, VOXELS * 2.0 + 10)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(read(patched(SLOPE, "<ff", np.nan, np.nan)).data, VOXELS)


def test_truncated_gzip():
    content = gzip.compress(nifti(np.random.default_rng(0).normal(size=(9, 9, 9))))
    assert "truncated" in reason_of(content[: len(content) // 2], "a.nii.gz")
    assert "truncated" in reason_of(content[:15], "a.nii.gz")


@pytest.mark.parametrize("missing", range(1, 9))
def test_missing_gzip_trailer(missing):
    assert "gzip trailer" in reason_of(gzip.compress(nifti())[:-missing], "a.nii.gz")


def test_no_single_bit_flip_in_a_gzip_file_gives_other_voxels():
    # A few bits mean nothing (time stamp, padding after the last block): those may load.
    content = gzip.compress(nifti(), mtime=0)
    refused = 0
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        try:
            volume = read(bytes(flipped), "a.nii.gz")
        except DataError:
            refused += 1
        else:
            np.testing.assert_array_equal(volume.data, VOXELS)
            np.testing.assert_array_equal(volume.affine, LPS)
    assert refused > 7 * len(content)


def test_checksum_mismatch_is_named():
    content = bytearray(gzip.compress(nifti()))
    content[-8] ^= 1
    assert "gzip checksum" in reason_of(bytes(content), "a.nii.gz")


def test_damage_is_named_where_it_makes_the_header_strange():
    content = bytearray(gzip.compress(nifti(), 0))  # stored: bytes of the file lie in the open
    content[content.index(b"n+1")] ^= 1
    assert "gzip checksum" in reason_of(bytes(content), "a.nii.gz")


def test_stray_bytes_after_the_trailer():
    assert "4 stray bytes" in reason_of(gzip.compress(nifti()) + b"junk", "a.nii.gz")


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "a.nii.gz", "empty (0 bytes)"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a.nii.gz", "Git LFS pointer"),
        (b"../.git/annex/objects/SHA256E-s1--ab.nii.gz", "a.nii.gz", "git-annex pointer"),
        (b"<!DOCTYPE html><html>404</html>", "a.nii.gz", "web page (HTML)"),
        (nifti(), "a.nii.gz", "uncompressed NIfTI named .gz"),
        (gzip.compress(nifti()), "a.nii", "gzip although it is named .nii"),
        (b"PK\x03\x04" + b"\0" * 600, "a.nii.gz", "not gzip although it is named .gz"),
        (b"\0" * 600, "a.nii", "not a NIfTI file"),
        (b"a" * 600, "a.nii", "not a NIfTI file"),
        (nifti()[:200], "a.nii", "ends within its header"),
        (nifti()[:-1], "a.nii", "truncated: 1 of"),
        (nifti() + b"\0", "a.nii", "1 bytes longer"),
        (gzip.compress(nifti() + b"\0"), "a.nii.gz", "unpacks to more"),
    ],
)
def test_files_that_are_not_what_their_name_says(content, name, reason):
    assert reason in reason_of(content, name)


def test_a_gzip_bomb_is_refused_from_its_header():
    header = patched(DIM, "<8h", 3, 1500, 1500, 1500, 1, 1, 1, 1)[:352]
    bomb = gzip.compress(header + b"\0" * 10_000)
    assert "declares 6,437 MB" in reason_of(bomb, "a.nii.gz")


def test_a_gzip_bomb_behind_a_small_header_is_not_unpacked():
    bomb = gzip.compress(nifti() + b"\0" * 50_000_000, 9)
    tracemalloc.start()
    assert "unpacks to more" in reason_of(bomb, "a.nii.gz")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_huge_file_is_refused_unread(tmp_path: Path):
    path = tmp_path / "a.nii"
    with path.open("wb") as stream:
        stream.truncate(1 << 32)  # sparse
    with pytest.raises(DataError, match="has 4295 MB but no header of a volume"):
        read_volume(path, "case7")


@pytest.mark.parametrize("side", [-3, 0, 32767])
def test_impossible_dimensions(side):
    assert "dimension" in reason_of(patched(DIM + 2, "<h", side))


@pytest.mark.parametrize(
    ("data", "options", "reason"),
    [
        (VOXELS[..., None], {}, "has 4 dimensions (3x4x5x1), expected 3"),
        (VOXELS[0], {}, "has 2 dimensions (4x5), expected 3"),
        (VOXELS, {"channels": 4}, "has 3 dimensions (3x4x5), expected 4"),
        (np.stack([VOXELS] * 3, axis=3), {"channels": 4}, "holds 3 volumes, expected 4"),
    ],
)
def test_other_numbers_of_dimensions(data, options, reason):
    assert reason in reason_of(nifti(data), **options)


def test_four_channels_where_they_are_wanted():
    stacked = np.stack([VOXELS + i for i in range(4)], axis=3)
    np.testing.assert_array_equal(read(nifti(stacked), channels=4).data, stacked)


@pytest.mark.parametrize("size", [0.0, -2.0, np.nan])
def test_voxel_size_zero_or_below_unless_repaired(size):
    content = patched(PIXDIM + 4, "<f", size)
    assert "declares voxels of" in reason_of(content)
    volume = read(content, repair=True)
    np.testing.assert_allclose(volume.affine, LPS)
    assert "taken as" in volume.repairs[0]


def test_repaired_voxel_size_reaches_the_qform():
    content = patched(SFORM, "<h", 0, content=patched(PIXDIM + 8, "<f", -2.0))
    np.testing.assert_allclose(read(content, repair=True).affine, LPS, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([np.nan, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0], "NaN or infinity in its affine"),
        ([1, 0, 0, np.inf, 0, 1, 0, 0, 0, 0, 1, 0], "NaN or infinity in its affine"),
        ([1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], "singular"),
        ([0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0], "singular or absurd"),
        ([1e9, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0], "singular or absurd"),
        ([1, 0, 0, 1e7, 0, 1, 0, 0, 0, 0, 1, 0], "more than 100 m away"),
    ],
)
def test_broken_sform(rows, reason):
    assert reason in reason_of(patched(SROW, "<12f", *rows))


def test_broken_qform():
    content = patched(QUATERN, "<3f", 5, 5, 5, content=patched(SFORM, "<h", 0))
    assert "not a rotation" in reason_of(content)


def test_no_orientation_at_all_unless_repaired():
    content = patched(QFORM, "<hh", 0, 0)
    assert "neither sform nor qform" in reason_of(content)
    volume = read(content, repair=True)
    np.testing.assert_allclose(volume.affine, np.diag([-1.0, -2.0, 3.0, 1.0]))
    assert volume.repairs == ("missing orientation taken as LPS",)


@pytest.mark.parametrize("slope", [1e38, -1e38, np.inf])
def test_absurd_intensity_scaling(slope):
    assert "scal" in reason_of(patched(SLOPE, "<ff", slope, 0.0))


@pytest.mark.parametrize(
    ("code", "bits", "reason"),
    [
        (128, 24, "RGB"),
        (32, 64, "complex"),
        (1, 1, "1-bit"),
        (77, 16, "unknown"),
        (4, 32, "32 bits per voxel but the type int16"),
    ],
)
def test_types_that_are_not_real_numbers(code, bits, reason):
    assert reason in reason_of(patched(DATATYPE, "<hh", code, bits))


def test_voxel_offset_outside_the_file():
    assert "at byte" in reason_of(patched(VOX_OFFSET, "<f", np.nan))
    assert "at byte" in reason_of(patched(VOX_OFFSET, "<f", 4.0))


def test_nan_voxels_are_counted_and_absurd_ones_refused():
    data = np.ones((3, 3, 3), dtype=np.float32)
    data[0, 0, :2] = np.nan, np.inf
    with pytest.raises(DataError, match="2 NaN or infinite voxels"):
        intensity_range(data, "a.nii", "case7")
    with pytest.raises(DataError, match="up to 1e\\+30"):
        intensity_range(np.full((2, 2, 2), 1e30), "a.nii", "case7")


def test_written_label_map_reads_back_with_a_fresh_header(tmp_path: Path):
    label = (VOXELS % 5).astype(np.uint8)
    for name in ("a.nii.gz", "a.nii"):
        write_label_map(tmp_path / name, label, LPS)
        image = nib.load(tmp_path / name)
        np.testing.assert_array_equal(np.asarray(image.dataobj), label)
        for matrix, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
            np.testing.assert_allclose(matrix, LPS, atol=1e-6)
            assert code == 1
        assert image.header["descrip"] == b""
        np.testing.assert_array_equal(read_volume(tmp_path / name, "case7").data, label)


def test_the_same_label_map_gives_the_same_bytes(tmp_path: Path):
    label = np.ones((3, 3, 3), dtype=np.uint8)
    for name in ("a.nii.gz", "b.nii.gz"):
        write_label_map(tmp_path / name, label, LPS)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
