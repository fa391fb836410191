"""The NIfTI header, read and checked before a single voxel is allocated.

Everything a reader needs is taken from the raw fields, because the usual readers repair or replace
broken fields silently (a NaN in the sform makes them use another affine). Fields are those of
NIfTI-1 and NIfTI-2, nifti.nimh.nih.gov.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.quaternions import quat2mat

from bratsml.geometry import Affine, Shape, spacing_mm_of

HEADER_BYTES = 544
"""Enough of the file's start for the header of either version."""
MAX_DATA_BYTES = 512 << 20
"""Largest volume accepted: four modalities of 256 voxels a side in float64."""
MAX_VOXELS = 1 << 26
"""Most voxels of one volume, as stored and at 1 mm: 406 a side. A head takes 300."""
MAX_OFFSET = 16 << 20
"""Furthest that the voxels may begin, behind what programs put between header and voxels."""
MAX_SIDE = 4096
MIN_SPACING_MM, MAX_SPACING_MM = 0.01, 100.0

_TYPES: dict[int, type[np.generic]] = {
    2: np.uint8, 4: np.int16, 8: np.int32, 16: np.float32, 64: np.float64,
    256: np.int8, 512: np.uint16, 768: np.uint32, 1024: np.int64, 1280: np.uint64,
}  # fmt: skip
_REFUSED_TYPES = {
    1: "1-bit", 32: "complex", 128: "RGB", 1536: "128-bit float", 1792: "complex",
    2048: "complex", 2304: "RGBA",
}  # fmt: skip
_TINY = 1e-5
_ORDERS: tuple[Literal["<", ">"], ...] = ("<", ">")


class HeaderFault(Exception):
    """Why a header cannot be trusted, and what to do; turned into a DataError by the reader."""

    def __init__(self, reason: str, remedy: str = "export the file again") -> None:
        self.reason, self.remedy = reason, remedy
        super().__init__(reason)


@dataclass(frozen=True)
class Header:
    """What is needed to read the voxels.

    Attributes:
        shape: ``(X, Y, Z)``.
        channels: Length of the fourth axis; 1 for a 3-D file.
        dtype: As stored, with its byte order.
        data_offset: First byte of the voxels.
        slope, inter: Scaling of the stored values, ``(1, 0)`` when there is none.
        affine: Voxel indices to millimetres.
        repairs: What was mended on request.
    """

    shape: Shape
    channels: int
    dtype: np.dtype[Any]
    data_offset: int
    slope: float
    inter: float
    affine: Affine
    repairs: tuple[str, ...] = ()

    @property
    def data_bytes(self) -> int:
        """Bytes of the voxels."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.channels * self.dtype.itemsize

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole uncompressed file."""
        return self.data_offset + self.data_bytes


def parse_header(block: bytes, *, channels: int = 1, repair: bool = False) -> Header:
    """Read and check the first bytes of an uncompressed NIfTI file.

    Args:
        block: At least the header; :data:`HEADER_BYTES` are enough.
        channels: 1 for a 3-D file, otherwise the length that the fourth axis must have.
        repair: Mend voxel sizes of zero or below and missing orientation instead of refusing.

    Raises:
        HeaderFault: Anything that would give wrong voxels, a wrong place or an absurd allocation.
    """
    fields, version = _fields(block)
    shape = _checked_shape(fields["dim"], channels)
    dtype = _checked_type(int(fields["datatype"]), int(fields["bitpix"]), fields.dtype)
    slope, inter = _checked_scaling(float(fields["scl_slope"]), float(fields["scl_inter"]))
    affine, repairs = _checked_affine(fields, shape, repair)
    header_bytes = 348 if version == 1 else 540
    offset = float(fields["vox_offset"])
    if not (np.isfinite(offset) and header_bytes <= offset <= MAX_OFFSET):
        raise HeaderFault(f"the header puts the voxels at byte {offset:g}")
    header = Header(shape, channels, dtype, int(offset), slope, inter, affine, repairs)
    if header.data_bytes > MAX_DATA_BYTES:
        raise HeaderFault(
            f"the header declares {header.data_bytes / 2**20:,.0f} MB of voxels, more than the "
            f"{MAX_DATA_BYTES >> 20} MB allowed",
            "check that it is one MRI volume",
        )
    voxels = int(np.prod(shape, dtype=np.int64))
    if voxels > MAX_VOXELS:
        raise HeaderFault(
            f"the header declares {voxels / 1e6:,.0f} million voxels, more than the "
            f"{MAX_VOXELS / 1e6:.0f} million allowed",
            "check that it is one MRI volume",
        )
    return header


def _fields(block: bytes) -> tuple[Any, int]:
    """The header's fields as a structured scalar in its own byte order, and the NIfTI version."""
    for version, layout in ((1, nib.nifti1.header_dtype), (2, nib.nifti2.header_dtype)):
        for order in _ORDERS:
            if block[:4] == np.array(layout.itemsize, dtype=f"{order}i4").tobytes():
                if len(block) < layout.itemsize:
                    raise HeaderFault("ends within its header", "copy or download it again")
                return _with_magic(block, layout.newbyteorder(order), version), version
    raise HeaderFault("is not a NIfTI file", "copy or download it again")


def _with_magic(block: bytes, layout: np.dtype[Any], version: int) -> Any:
    fields = np.frombuffer(block, dtype=layout, count=1)[0]
    magic = bytes(fields["magic"])[:3]
    if magic in (b"ni1", b"ni2"):
        raise HeaderFault("is a header whose voxels are in another file", "convert it to .nii.gz")
    if magic != f"n+{version}".encode():
        raise HeaderFault("has a NIfTI header without the NIfTI mark")
    return fields


def _checked_shape(dim: npt.NDArray[np.integer], channels: int) -> Shape:
    axes = 3 if channels == 1 else 4
    if dim[0] != axes:
        shown = "x".join(str(int(n)) for n in dim[1 : max(min(int(dim[0]), 7), 0) + 1])
        raise HeaderFault(
            f"has {int(dim[0])} dimensions ({shown}), expected {axes}",
            f"save it as one {axes}-D volume",
        )
    sides = [int(n) for n in dim[1 : axes + 1]]
    if not all(0 < n <= MAX_SIDE for n in sides):
        shown = "x".join(map(str, sides))
        raise HeaderFault(f"has the impossible dimensions {shown}")
    if axes == 4 and sides[3] != channels:
        raise HeaderFault(f"holds {sides[3]} volumes, expected {channels}")
    return sides[0], sides[1], sides[2]


def _checked_type(code: int, bitpix: int, layout: np.dtype[Any]) -> np.dtype[Any]:
    if code not in _TYPES:
        kind = _REFUSED_TYPES.get(code, "an unknown type of")
        raise HeaderFault(
            f"holds {kind} values (NIfTI type {code})", "save it as integers or floats"
        )
    order = layout["sizeof_hdr"].byteorder
    dtype = np.dtype(_TYPES[code]).newbyteorder(order)
    if bitpix != dtype.itemsize * 8:
        raise HeaderFault(f"declares {bitpix} bits per voxel but the type {np.dtype(_TYPES[code])}")
    return dtype


def _checked_scaling(slope: float, inter: float) -> tuple[float, float]:
    if np.isinf(slope) or np.isinf(inter):
        raise HeaderFault(f"has the intensity scaling slope {slope:g}, intercept {inter:g}")
    if np.isnan(slope) or slope == 0:  # the standard's way of saying "not scaled"
        return 1.0, 0.0
    return slope, 0.0 if np.isnan(inter) else inter


def _checked_affine(fields: Any, shape: Shape, repair: bool) -> tuple[Affine, tuple[str, ...]]:
    pixdim = np.asarray(fields["pixdim"], dtype=np.float64)
    sizes = pixdim[1:4].copy()
    repairs: list[str] = []
    if not (np.isfinite(sizes).all() and (sizes > 0).all()):
        shown = " x ".join(f"{size:g}" for size in sizes)
        if not repair:
            raise HeaderFault(f"declares voxels of {shown} mm", "mend the header or pass --repair")
        known = spacing_mm_of(_sform(fields)) if fields["sform_code"] > 0 else (1.0, 1.0, 1.0)
        usable = np.isfinite(sizes) & (sizes != 0)
        sizes = np.where(usable, np.abs(sizes), known)
        repairs.append(f"voxel size {shown} mm taken as {' x '.join(f'{s:g}' for s in sizes)} mm")
    if fields["sform_code"] > 0:
        affine = _sform(fields)
    elif fields["qform_code"] > 0:
        affine = _qform(fields, sizes, float(pixdim[0]))
    elif repair:
        affine = np.diag([-sizes[0], -sizes[1], sizes[2], 1.0])  # LPS, as BraTS has it
        repairs.append("missing orientation taken as LPS")
    else:
        raise HeaderFault(
            "has neither sform nor qform, so its orientation is unknown",
            "mend the header or pass --repair",
        )
    _check_usable(affine, shape)
    return affine, tuple(repairs)


def _sform(fields: Any) -> Affine:
    affine = np.eye(4)
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        affine[row] = fields[name]
    return affine


def _qform(fields: Any, sizes: npt.NDArray[np.float64], qfac: float) -> Affine:
    """Rotation by the unit quaternion ``(a, b, c, d)`` of which the header leaves out ``a``."""
    imaginary = np.array([fields["quatern_b"], fields["quatern_c"], fields["quatern_d"]], float)
    offsets = [fields["qoffset_x"], fields["qoffset_y"], fields["qoffset_z"]]
    rest = 1.0 - float(imaginary @ imaginary)
    if not (rest > -_TINY and np.isfinite(offsets).all()):
        raise HeaderFault("has a qform that is not a rotation")
    affine = np.eye(4)
    affine[:3, :3] = quat2mat([np.sqrt(max(rest, 0.0)), *imaginary]) * sizes
    affine[:3, 3] = offsets
    if qfac < 0:
        affine[:3, 2] *= -1
    return affine


def _check_usable(affine: Affine, shape: Shape) -> None:
    if not np.isfinite(affine).all():
        raise HeaderFault("has NaN or infinity in its affine")
    sizes = spacing_mm_of(affine)
    shown = " x ".join(f"{size:.4g}" for size in sizes)
    if not all(MIN_SPACING_MM <= size <= MAX_SPACING_MM for size in sizes):
        raise HeaderFault(f"has an affine with voxels of {shown} mm, singular or absurd")
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < 0.1:  # 1 for axes at right angles
        raise HeaderFault("has a singular affine")
    corners = affine[:3, :3] @ np.array(shape, dtype=float)
    if np.abs(affine[:3, 3]).max() > 1e5 or np.abs(corners).max() > 1e5:
        raise HeaderFault("has an affine that puts it more than 100 m away")
