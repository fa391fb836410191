"""One case from its files to the arrays that training reads, in memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from bratsml.data.cases import DECATHLON_CHANNELS, MODALITIES, CaseFiles
from bratsml.data.checks import (
    check_background,
    check_contrast,
    check_different_files,
    check_same_grid,
    checked_label_map,
    constant_background,
)
from bratsml.data.header import MAX_VOXELS
from bratsml.data.meta import CaseMeta
from bratsml.data.nifti import Volume, decode_volume, intensity_range, peek_header, read_bytes
from bratsml.data.normalise import apply_recipe, crop_label
from bratsml.data.recipes import (
    RECIPE_VERSION,
    SPACING_MM,
    SPACING_TOLERANCE_MM,
    RecipeConfig,
)
from bratsml.data.resample import respace, respaced_shape
from bratsml.errors import DataError
from bratsml.files import sha256_of_json
from bratsml.geometry import Array, Reorientation, Shape, Spacing, spacing_mm_of
from bratsml.labels import LabelMap, LabelScheme

FOREGROUND_SAMPLES = 2000
"""Voxels kept per region for drawing patches around them."""
NO_FOREGROUND = "no foreground"
OUTSIDE_CROP = "label outside the brain"
MAX_CASE_BYTES = 704 << 20
"""Most that the files of a case may hold unpacked: four modalities of 256 voxels a side in float64
and a label map, with room to spare."""

_TARGET: Spacing = (SPACING_MM, SPACING_MM, SPACING_MM)


@dataclass(frozen=True)
class PreparedCase:
    """A case as the store holds it.

    Attributes:
        image: ``(4, X, Y, Z)`` in the order of ``MODALITIES``, of the recipe's type.
        label: ``(X, Y, Z)``, or ``None``.
        meta: What is needed to go back to the case's own grid, and more.
        reference: Label map in the case's own grid where ``label`` cannot give it back exactly.
    """

    image: Array
    label: LabelMap | None
    meta: CaseMeta
    reference: LabelMap | None = None


@dataclass(frozen=True)
class RawCase:
    """The unread bytes of a case's files and their hashes, each under its first use.

    Emptied as it is decoded, so that a case is never held twice.
    """

    case: CaseFiles
    contents: dict[str, bytes]
    hashes: dict[str, str]


def case_key(
    hashes: Mapping[str, str], recipe: RecipeConfig, scheme_name: str, repair: bool
) -> str:
    """SHA-256 of everything the stored arrays of a case depend on."""
    return sha256_of_json(
        {
            "files": dict(hashes),
            "recipe": recipe.tree(),
            "version": RECIPE_VERSION[recipe.kind],
            "label_scheme": scheme_name,
            "repair": repair,
        }
    )


def read_case(case: CaseFiles, *, with_label: bool = True, repair: bool = False) -> RawCase:
    """Read every file of a case once.

    Raises:
        DataError: A file is missing, unreadable or no ordinary one, or the case is too large.
    """
    paths = {use: path for use, path in case.files.items() if with_label or use != "label"}
    require_manageable(case, paths, repair=repair)
    contents = {
        use: read_bytes(path, case.id, channels=_channels(case, use), repair=repair)
        for use, path in paths.items()
    }
    hashes = {use: hashlib.sha256(content).hexdigest() for use, content in contents.items()}
    return RawCase(case, contents, hashes)


def require_manageable(case: CaseFiles, paths: Mapping[str, Path], *, repair: bool = False) -> None:
    """Refuse by their headers files that are too much together, or once they are at 1 mm.

    Args:
        paths: Use to file.

    Raises:
        DataError: As said; or a file is missing, unreadable or no ordinary one.
    """
    total = 0
    for use, path in paths.items():
        header = peek_header(path, case.id, channels=_channels(case, use), repair=repair)
        if header is None:  # reading says what is wrong
            continue
        total += header.file_bytes
        spacing = spacing_mm_of(header.affine)
        resampled = _resampled_shape(header.shape, list(spacing)) or header.shape
        if math.prod(resampled) > MAX_VOXELS:
            shown, wide = ("x".join(f"{n:g}" for n in sides) for sides in (header.shape, spacing))
            reason = (
                f"its {shown} voxels of {wide} mm become {math.prod(resampled) / 1e6:,.0f} million "
                f"at {SPACING_MM:g} mm, more than the {MAX_VOXELS / 1e6:.0f} million allowed"
            )
            raise DataError(case.id, path.name, reason, "check the voxel size in its header")
    if total > MAX_CASE_BYTES:
        reason = (
            f"its files hold {total / 2**20:,.0f} MB unpacked, more than the "
            f"{MAX_CASE_BYTES >> 20} MB allowed"
        )
        raise DataError(case.id, "", reason, "check that each is one MRI volume")


def _channels(case: CaseFiles, use: str) -> int:
    """Length of the fourth axis of a file; 1 for a 3-D one."""
    return len(MODALITIES) if case.layout == "decathlon" and use != "label" else 1


def prepare_case(
    case: CaseFiles,
    recipe: RecipeConfig,
    scheme: LabelScheme,
    *,
    with_label: bool = True,
    repair: bool = False,
) -> PreparedCase:
    """Read, check, orient, crop and normalise one case.

    Args:
        with_label: Read the label map if there is one; prediction does not need it.
        repair: Mend broken voxel sizes and missing orientation instead of refusing.

    Raises:
        DataError: The case cannot be trusted; names the file, the fault and the remedy.
    """
    raw = read_case(case, with_label=with_label, repair=repair)
    return prepare_raw_case(raw, recipe, scheme, repair=repair)


def prepare_raw_case(
    raw: RawCase, recipe: RecipeConfig, scheme: LabelScheme, *, repair: bool = False
) -> PreparedCase:
    """:func:`prepare_case` from bytes already read; empties ``raw.contents``."""
    case = raw.case
    images, ranges, first = _images(raw, repair)
    names = {m: case.images[m].name for m in MODALITIES}
    check_contrast(images, ranges, names, case.id)
    mended = _zero_backgrounds(images) if repair else ()
    check_background(images, names, case.id)
    check_different_files(raw.hashes, {u: p.name for u, p in case.files.items()}, case.id)
    reference, repairs = _label(raw, first, scheme, repair)
    shape = cast(Shape, first.data.shape[:3])
    spacing = spacing_mm_of(first.affine)
    turn = Reorientation.to_ras(first.affine)
    turned = [turn.apply(images.pop(modality)) for modality in MODALITIES]
    label = None if reference is None else cast(LabelMap, turn.apply(reference))
    resampled = _resampled_shape(turned[0].shape, [spacing[axis] for axis in turn.permutation])
    if resampled is not None:
        ras_spacing = cast(Spacing, tuple(spacing[axis] for axis in turn.permutation))
        for i, array in enumerate(turned):
            turned[i] = respace(array, ras_spacing, resampled, _TARGET, linear=True)
        if label is not None:
            label = cast(LabelMap, respace(label, ras_spacing, resampled, _TARGET, linear=False))
    box, image, intensities = apply_recipe(recipe, turned, case)
    stored = None if label is None else crop_label(recipe, label, box)
    outside = label is not None and np.count_nonzero(label) > np.count_nonzero(box.crop(label))
    interpolated = resampled is not None or box.shape != image.shape[1:]
    source_hash = sha256_of_json(raw.hashes)
    meta = CaseMeta(
        id=case.id,
        patient=case.patient,
        cohort=case.cohort,
        label_scheme=scheme.name,
        has_label=stored is not None,
        original_shape=shape,
        affine=tuple(tuple(float(v) for v in row) for row in first.affine),
        spacing_mm=spacing,
        permutation=turn.permutation,
        flips=turn.flips,
        resampled_shape=resampled,
        crop_start=box.start,
        crop_stop=box.stop,
        shape=cast(Shape, image.shape[1:]),
        volume_ml=_volumes_ml(reference, scheme, spacing),
        foreground=_foreground(stored, scheme, source_hash),
        intensities=intensities,
        flags=(
            *((NO_FOREGROUND,) if reference is not None and not reference.any() else ()),
            *((OUTSIDE_CROP,) if outside else ()),
            *dict.fromkeys((*first.repairs, *mended, *repairs)),
        ),
        source_hash=source_hash,
        key=case_key(raw.hashes, recipe, scheme.name, repair),
    )
    keep = reference is not None and (interpolated or outside)
    return PreparedCase(image, stored, meta, reference if keep else None)


def _images(
    raw: RawCase, repair: bool
) -> tuple[dict[str, Array], dict[str, tuple[float, float]], Volume]:
    """The four modalities in the files' axis order, their ranges, and the first file's volume."""
    case = raw.case
    names = {modality: path.name for modality, path in case.images.items()}
    images: dict[str, Array] = {}
    first: Volume | None = None
    if case.layout == "decathlon":
        content, name = raw.contents.pop(MODALITIES[0]), names[MODALITIES[0]]
        first = decode_volume(content, name, case.id, channels=len(MODALITIES), repair=repair)
        images = {m: first.data[..., DECATHLON_CHANNELS[m]] for m in MODALITIES}
    else:
        for modality in MODALITIES:
            content, name = raw.contents.pop(modality), names[modality]
            volume = decode_volume(content, name, case.id, repair=repair)
            first = first or volume
            check_same_grid(volume, name, first, names[MODALITIES[0]], case.id)
            images[modality] = volume.data
    assert first is not None
    ranges = {m: intensity_range(images[m], names[m], case.id) for m in MODALITIES}
    return images, ranges, first


def _zero_backgrounds(images: dict[str, Array]) -> tuple[str, ...]:
    """Put 0 where a modality has another constant background; what was mended."""
    mended = []
    for modality, volume in images.items():
        value = constant_background(volume)
        if value:
            images[modality] = np.where(volume == value, volume.dtype.type(0), volume)
            mended.append(f"background {value:g} of {modality} taken as 0")
    return tuple(mended)


def _label(
    raw: RawCase, first: Volume, scheme: LabelScheme, repair: bool
) -> tuple[LabelMap | None, tuple[str, ...]]:
    case = raw.case
    if case.label is None or "label" not in raw.contents:
        return None, ()
    name = case.label.name
    volume = decode_volume(raw.contents.pop("label"), name, case.id, repair=repair)
    check_same_grid(volume, name, first, case.images[MODALITIES[0]].name, case.id)
    return checked_label_map(volume.data, name, case.id, scheme), volume.repairs


def _resampled_shape(shape: tuple[int, ...], spacing_mm: list[float]) -> Shape | None:
    if all(abs(size - SPACING_MM) <= SPACING_TOLERANCE_MM for size in spacing_mm):
        return None
    return respaced_shape(cast(Shape, shape), cast(Spacing, tuple(spacing_mm)), SPACING_MM)


def _volumes_ml(
    label: LabelMap | None, scheme: LabelScheme, spacing_mm: Spacing
) -> dict[str, float]:
    if label is None:
        return {}
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    counts = {value: int(np.count_nonzero(label == value)) for value in scheme.values}
    return {
        region: sum(counts[value] for value in values) * voxel_ml
        for region, values in scheme.regions.items()
    }


def _foreground(
    label: LabelMap | None, scheme: LabelScheme, source_hash: str
) -> dict[str, list[int]]:
    """A sorted sample of each region's voxels; the draw depends on the case's content only."""
    if label is None:
        return {}
    rng = np.random.default_rng(int(source_hash[:16], 16))
    flat = label.ravel()
    tumour = np.flatnonzero(flat != 0)
    values = flat[tumour]
    sampled: dict[str, list[int]] = {}
    for region, members in scheme.regions.items():
        belongs = np.zeros(256, dtype=np.bool_)
        belongs[list(members)] = True
        voxels = tumour[belongs[values]]
        if len(voxels) > FOREGROUND_SAMPLES:
            voxels = np.sort(rng.choice(voxels, FOREGROUND_SAMPLES, replace=False, shuffle=False))
        sampled[region] = voxels.tolist()
    return sampled
