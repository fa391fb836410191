"""Reading NIfTI volumes so that no damage goes unseen, and writing label maps.

A file is read once, whole: its bytes give the hash, then the header is checked, then exactly the
declared number of voxels is unpacked and the gzip stream is followed to its checksum (nibabel stops
before it, so flipped bits load as wrong voxels).
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import nibabel as nib
import numpy as np
import numpy.typing as npt

from bratsml import files
from bratsml.data.header import HEADER_BYTES, MAX_DATA_BYTES, Header, HeaderFault, parse_header
from bratsml.data.inflate import (
    GZIP_MAGIC,
    follow_to_checksum,
    inflate,
    unpack_start,
    unpack_whole,
)
from bratsml.errors import DataError
from bratsml.files import write_atomically
from bratsml.geometry import Affine, Array
from bratsml.labels import LabelMap

MAX_INTENSITY = 1e12
"""Largest magnitude an image may hold: its square must fit float32 with room for sums."""
GZIP_LEVEL = 6

PEEK_BYTES = 1 << 20
"""Read of a file to find its header; gzip may put some kilobytes of names and notes before it."""
MAX_UNEXPLAINED_BYTES = 16 << 20
"""Largest file that is read although its header cannot be, to say what is wrong with it."""
MAX_FILE_BYTES = MAX_DATA_BYTES + (16 << 20)

Payload = bytes | bytearray | npt.NDArray[np.uint8]
"""The bytes of an uncompressed file."""

_NIFTI_MARKS = (b"n+1\0", b"ni1\0")
_DAMAGED = "copy or download it again"


@dataclass(frozen=True)
class Volume:
    """The voxels of one file.

    Attributes:
        data: ``(X, Y, Z)``, or ``(X, Y, Z, C)`` for a file of several channels, in the file's axis
            order; stored type, or float32 when the header scales the values. Read-only.
        affine: Voxel indices to millimetres.
        repairs: What was mended on request.
    """

    data: Array
    affine: Affine
    repairs: tuple[str, ...]


def peek_header(
    path: Path, case_id: str, *, channels: int = 1, repair: bool = False
) -> Header | None:
    """The header of a file, read without the rest of it, which then may be read.

    ``None`` where the header is at fault in a way that :func:`decode_volume` explains better.

    Raises:
        DataError: Missing, unreadable, not an ordinary file, or larger than its header explains.
    """
    try:
        with files.open_file(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(PEEK_BYTES)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or 'input error'})"
        raise DataError(case_id, path.name, reason, "check the file and its permissions") from error
    try:
        return _plausible_header(start, size, path.name, channels, repair)
    except HeaderFault as fault:
        raise DataError(case_id, path.name, fault.reason, fault.remedy) from fault


def read_bytes(path: Path, case_id: str, *, channels: int = 1, repair: bool = False) -> bytes:
    """The whole file, once its header has been found plausible; see :func:`peek_header`.

    Raises:
        DataError: As there.
    """
    peek_header(path, case_id, channels=channels, repair=repair)
    try:
        return files.read_bytes(path, MAX_FILE_BYTES)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or 'input error'})"
        raise DataError(case_id, path.name, reason, "check the file and its permissions") from error


def read_volume(path: Path, case_id: str, *, channels: int = 1, repair: bool = False) -> Volume:
    """Read and check one file; see :func:`decode_volume`."""
    content = read_bytes(path, case_id, channels=channels, repair=repair)
    return decode_volume(content, path.name, case_id, channels=channels, repair=repair)


def decode_volume(
    content: bytes, name: str, case_id: str, *, channels: int = 1, repair: bool = False
) -> Volume:
    """The volume in the bytes of a ``.nii`` or ``.nii.gz`` file.

    Args:
        channels: 1 for a 3-D file, otherwise the length its fourth axis must have.
        repair: Mend broken voxel sizes and missing orientation instead of refusing.

    Raises:
        DataError: Damaged, not NIfTI, or a header that cannot be trusted.
    """
    try:
        _refuse_other_content(content, name)
        payload: Payload
        if name.lower().endswith(".gz"):
            header, payload = _unzip(content, channels, repair)
        else:
            header = parse_header(content[:HEADER_BYTES], channels=channels, repair=repair)
            payload = content
        _check_length(header, len(payload))
        return Volume(_scaled(_array(payload, header), header), header.affine, header.repairs)
    except HeaderFault as fault:
        raise DataError(case_id, name, fault.reason, fault.remedy) from fault


def intensity_range(data: Array, name: str, case_id: str) -> tuple[float, float]:
    """Smallest and largest value of an image without NaN, infinity or absurd magnitudes.

    Raises:
        DataError: With the number of voxels that are not finite, or the largest magnitude.
    """
    low, high = float(data.min()), float(data.max())
    if not (np.isfinite(low) and np.isfinite(high)):  # NaN spreads into both
        bad = data.size - int(np.count_nonzero(np.isfinite(data)))
        raise DataError(
            case_id, name, f"holds {bad} NaN or infinite voxels", "mend or export it again"
        )
    largest = max(abs(low), abs(high))
    if largest > MAX_INTENSITY:
        raise DataError(
            case_id, name, f"holds intensities up to {largest:.3g}", "check its scaling (scl_slope)"
        )
    return low, high


def write_label_map(path: Path, label_map: LabelMap, affine: npt.ArrayLike) -> None:
    """Write a label map as NIfTI with a fresh header, atomically.

    The header holds shape, type and place only (sform and qform, scanner coordinates), nothing of
    any source file, so it carries no personal data.

    Args:
        path: Ends in ``.nii`` or ``.nii.gz``.
        label_map: ``(X, Y, Z)``.
        affine: Of the same grid, shape ``(4, 4)``.
    """
    affine = np.asarray(affine, dtype=np.float64)
    image = nib.Nifti1Image(np.asarray(label_map, dtype=np.uint8), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    buffer = io.BytesIO()
    image.to_file_map({"image": nib.FileHolder(fileobj=buffer)})
    content = buffer.getvalue()
    if path.name.endswith(".gz"):
        content = gzip.compress(content, GZIP_LEVEL, mtime=0)  # no time stamp: same map, same bytes

    def write(stream: IO[bytes]) -> None:
        stream.write(content)

    write_atomically(path, write)


def _refuse_other_content(content: bytes, name: str) -> None:
    """Say what a file is when it is plainly not what its name says."""
    start = content[:512].lstrip().lower()
    zipped = name.lower().endswith(".gz")
    if not content:
        raise HeaderFault("is empty (0 bytes)", _DAMAGED)
    if start.startswith(b"version https://git-lfs"):
        raise HeaderFault("is a Git LFS pointer, not the volume", "fetch it with 'git lfs pull'")
    if len(content) < 1024 and b"annex/objects" in start:
        raise HeaderFault("is a git-annex pointer, not the volume", "fetch it with 'git annex get'")
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise HeaderFault("is a web page (HTML), not a volume", "download it again")
    if zipped and not content.startswith(GZIP_MAGIC):
        if content[344:348] in _NIFTI_MARKS or content[4:8] == b"n+2\0":
            raise HeaderFault("is an uncompressed NIfTI named .gz", "rename it to .nii")
        raise HeaderFault("is not gzip although it is named .gz", _DAMAGED)
    if not zipped and content.startswith(GZIP_MAGIC):
        raise HeaderFault("is gzip although it is named .nii", "rename it to .nii.gz")


def _plausible_header(
    start: bytes, size: int, name: str, channels: int, repair: bool
) -> Header | None:
    """Judge a file of ``size`` bytes by its first ones.

    Raises:
        HeaderFault: It is too large for what it says it holds.
    """
    zipped = name.lower().endswith(".gz")
    try:
        _refuse_other_content(start, name)
        block = unpack_start(start, HEADER_BYTES) if zipped else start[:HEADER_BYTES]
        header = parse_header(block, channels=channels, repair=repair)
    except (HeaderFault, zlib.error):
        if size <= MAX_UNEXPLAINED_BYTES:
            return None
        raise HeaderFault(
            f"has {size / 1e6:.0f} MB but no header of a volume at its start",
            "check that it is one MRI volume",
        ) from None
    # what cannot be packed grows by some bytes per block and member
    most = header.file_bytes + (header.file_bytes // 50 + PEEK_BYTES if zipped else 0)
    if size > most:
        what = "packed" if zipped else "long"
        raise HeaderFault(
            f"is {size} bytes {what}, but its header declares {header.file_bytes} bytes", _DAMAGED
        )
    return header


def _unzip(content: bytes, channels: int, repair: bool) -> tuple[Header, Payload]:
    """Header and uncompressed file; never unpacks more than the header declares."""
    try:
        start = unpack_start(content[:PEEK_BYTES], HEADER_BYTES)
        if len(start) < 4:
            raise HeaderFault("is truncated: its gzip stream ends within the header", _DAMAGED)
        try:
            header = parse_header(start, channels=channels, repair=repair)
        except HeaderFault:
            follow_to_checksum(content)  # a damaged stream explains a strange header
            raise
        unpacked = unpack_whole(content, header.file_bytes)
        return header, unpacked if unpacked is not None else inflate(content, header.file_bytes)
    except zlib.error as error:
        crc = "check" in str(error)
        what = "gzip checksum does not match its voxels" if crc else "gzip stream is damaged"
        raise HeaderFault(f"is corrupt: the {what}", _DAMAGED) from error


def _check_length(header: Header, found: int) -> None:
    expected = header.file_bytes
    if found < expected:
        reason = f"is truncated: {expected - found} of {expected} bytes are missing at the end"
        raise HeaderFault(reason, _DAMAGED)
    if found > expected:
        raise HeaderFault(f"is {found - expected} bytes longer than its header declares")


def _array(payload: Payload, header: Header) -> Array:
    shape = header.shape if header.channels == 1 else (*header.shape, header.channels)
    flat = np.frombuffer(payload, dtype=header.dtype, offset=header.data_offset)
    array = flat.reshape(shape, order="F")
    return array if header.dtype.isnative else array.astype(header.dtype.newbyteorder("="))


def _scaled(data: Array, header: Header) -> Array:
    if (header.slope, header.inter) == (1.0, 0.0):
        return data
    largest = max(abs(float(data.min())), abs(float(data.max())))
    top = largest * abs(header.slope) + abs(header.inter)
    if top > MAX_INTENSITY:
        raise HeaderFault(
            f"scales its intensities to {top:.3g} (scl_slope {header.slope:g})",
            "mend the header's scl_slope",
        )
    return (data.astype(np.float64) * header.slope + header.inter).astype(np.float32)
