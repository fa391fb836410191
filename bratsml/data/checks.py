"""Checks of a case as a whole: one grid, four different modalities, labels of the scheme."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from bratsml.data.nifti import Volume
from bratsml.errors import DataError
from bratsml.geometry import Affine, Array, Shape
from bratsml.labels import LabelMap, LabelScheme

GRID_TOLERANCE_MM = 0.1
"""Largest distance between the same voxel of two files that still counts as one grid."""
ROUNDING_TOLERANCE = 1e-3
"""How far a label value may lie from a whole number."""
BORDER_SHARE = 0.9
"""Share of the outermost voxels that have the background's value."""
_SHOWN_VALUES = 8


def grid_distance_mm(a: Affine, b: Affine, shape: Shape) -> float:
    """Largest distance between the places two affines give to the same voxel."""
    corners = np.array(np.meshgrid(*((0, n - 1) for n in shape))).reshape(3, -1)
    difference = (a - b)[:3, :3] @ corners + (a - b)[:3, 3:]
    return float(np.linalg.norm(difference, axis=0).max())


def check_same_grid(
    volume: Volume, name: str, first: Volume, first_name: str, case_id: str
) -> None:
    """Refuse a file that does not lie on the grid of the case's first file.

    Raises:
        DataError: With both shapes, or the distance in millimetres.
    """
    shape, expected = volume.data.shape[:3], first.data.shape[:3]
    remedy = "register and resample the case's files to one grid"
    if shape != expected:
        shown, wanted = ("x".join(map(str, s)) for s in (shape, expected))
        raise DataError(case_id, name, f"has shape {shown}, but {first_name} has {wanted}", remedy)
    distance = grid_distance_mm(volume.affine, first.affine, (shape[0], shape[1], shape[2]))
    if distance > GRID_TOLERANCE_MM:
        reason = f"lies up to {distance:.1f} mm away from {first_name}"
        raise DataError(case_id, name, reason, remedy)


def check_contrast(
    images: Mapping[str, Array],
    ranges: Mapping[str, tuple[float, float]],
    names: Mapping[str, str],
    case_id: str,
) -> None:
    """Refuse modalities without contrast, and one volume given as two modalities.

    Args:
        images: Modality to volume, every voxel finite.
        ranges: Modality to its smallest and largest value.
        names: Modality to file name.

    Raises:
        DataError: Empty foreground, zero variance, or two equal volumes.
    """
    if all(low == high == 0 for low, high in ranges.values()):
        reason = "the foreground is empty: every modality is zero everywhere"
        raise DataError(case_id, "", reason, "export the case again")
    for modality, (low, high) in ranges.items():
        if low == high:
            reason = f"{modality} has zero variance: every voxel is {low:g}"
            raise DataError(case_id, names[modality], reason, "export the file again")
    modalities = list(images)
    for i, one in enumerate(modalities):
        for other in modalities[i + 1 :]:
            if ranges[one] == ranges[other] and np.array_equal(images[one], images[other]):
                reason = f"the same volume is given as {one} and {other}"
                raise DataError(case_id, names[other], reason, "put the right file in place")


def constant_background(volume: Array) -> float:
    """The value around the brain where it is not 0, as it must be; 0 where all is well.

    It is what all eight corners have, and nine tenths of the outermost voxels. A volume whose
    border varies has no such background.

    Example:
        >>> volume = np.full((4, 4, 4), -1)
        >>> volume[1:3, 1:3, 1:3] = 7
        >>> constant_background(volume)
        -1.0
    """
    ends = [0, -1]
    corners = volume[np.ix_(ends, ends, ends)]
    value = corners.flat[0]
    if value == 0 or not (corners == value).all():
        return 0.0
    faces = [volume.take(end, axis=axis) for axis in range(3) for end in ends]
    share = sum(np.count_nonzero(face == value) for face in faces) / sum(f.size for f in faces)
    return float(value) if share >= BORDER_SHARE else 0.0


def check_background(images: Mapping[str, Array], names: Mapping[str, str], case_id: str) -> None:
    """Refuse modalities in which something else than 0 stands for "outside the brain".

    What is not 0 counts as brain: it would be cropped to and normalised by.

    Args:
        images: Modality to volume, every voxel finite.
        names: Modality to file name.

    Raises:
        DataError: With the value found.
    """
    for modality, volume in images.items():
        value = constant_background(volume)
        if value:
            reason = f"its background is {value:g}, not 0"
            remedy = "set it to 0, or preprocess with --repair, which takes it as 0"
            raise DataError(case_id, names[modality], reason, remedy)


def check_different_files(
    hashes: Mapping[str, str], names: Mapping[str, str], case_id: str
) -> None:
    """Refuse one file given under two names.

    Args:
        hashes: Use (modality or ``label``) to SHA-256 of the file.

    Raises:
        DataError: Naming both uses.
    """
    seen: dict[str, str] = {}
    for use, digest in hashes.items():
        if digest in seen:
            reason = f"the same file is given as {seen[digest]} and {use}"
            raise DataError(case_id, names[use], reason, "put the right file in place")
        seen[digest] = use


def checked_label_map(data: Array, name: str, case_id: str, scheme: LabelScheme) -> LabelMap:
    """The label map as uint8, every value one of the scheme's.

    Values within :data:`ROUNDING_TOLERANCE` of a whole number are rounded.

    Raises:
        DataError: With a histogram of the values that do not belong.
    """
    if data.dtype.kind == "f":
        whole = np.rint(data)
        with np.errstate(invalid="ignore"):
            fits = np.abs(data - whole) <= ROUNDING_TOLERANCE
        if not fits.all():
            raise _unknown_labels(data, ~fits, name, case_id, scheme)
        data = whole
    low, high = float(data.min()), float(data.max())
    if low < 0 or high > 255:
        known = np.isin(data, scheme.values)
        raise _unknown_labels(data, ~known, name, case_id, scheme)
    label_map = data.astype(np.uint8, order="K")
    if sum(np.count_nonzero(label_map == value) for value in scheme.values) != label_map.size:
        known = np.isin(label_map, scheme.values)
        raise _unknown_labels(label_map, ~known, name, case_id, scheme)
    return label_map


def _unknown_labels(
    data: Array, wrong: npt.NDArray[np.bool_], name: str, case_id: str, scheme: LabelScheme
) -> DataError:
    values, counts = np.unique(data[wrong], return_counts=True)
    pairs = sorted(zip(counts.tolist(), values.tolist(), strict=True), reverse=True)
    shown = ", ".join(f"{value:g} ({count} voxels)" for count, value in pairs[:_SHOWN_VALUES])
    more = f" and {len(pairs) - _SHOWN_VALUES} more" if len(pairs) > _SHOWN_VALUES else ""
    allowed = ", ".join(map(str, scheme.values))
    return DataError(
        case_id,
        name,
        f"holds label values that scheme {scheme.name} does not know: {shown}{more}",
        f"mend the label map (allowed are {allowed}) or declare another label scheme",
    )
