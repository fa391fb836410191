"""From the stored grid of a case back to the grid of its own files."""

from __future__ import annotations

from bratsml.data.recipes import SPACING_MM
from bratsml.data.resample import resize, respace
from bratsml.data.store import CaseMeta
from bratsml.geometry import Array

_TARGET = (SPACING_MM, SPACING_MM, SPACING_MM)


def restore(array: Array, meta: CaseMeta, *, linear: bool) -> Array:
    """Undo what preprocessing did to the grid: resize, crop, 1 mm, turn to RAS.

    Exact (every voxel in its place, none interpolated) when the case was stored in its own voxels,
    as ``native`` does at 1 mm. Outside the crop box the result is 0, so restore masks, label maps
    or region probabilities rather than background probabilities.

    Args:
        array: ``(..., X, Y, Z)`` in the stored grid.
        meta: Of the case.
        linear: Interpolate where interpolation is needed, as suits probabilities (the result is
            then float32); otherwise the nearest voxel, as suits label maps and masks.

    Returns:
        ``(..., *meta.original_shape)``; a view where nothing had to be computed.

    Raises:
        ValueError: The last three axes are not ``meta.shape``.
    """
    if tuple(array.shape[-3:]) != meta.shape:
        raise ValueError(f"array of shape {array.shape} is not in the stored grid {meta.shape}")
    box = meta.crop_box
    if meta.shape != box.shape:
        array = resize(array, box.shape, linear=linear)
    array = box.paste(array, meta.resampled_shape or meta.ras_shape)
    if meta.resampled_shape is not None:
        array = respace(array, _TARGET, meta.ras_shape, meta.ras_spacing_mm, linear=linear)
    return meta.reorientation.undo(array)
