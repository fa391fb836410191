"""The arithmetic of the recipes: where to crop, how to scale, whether to resize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from bratsml.data.cases import MODALITIES, CaseFiles
from bratsml.data.meta import Intensity
from bratsml.data.recipes import NativeRecipe, RecipeConfig, Resize128Recipe
from bratsml.data.resample import memory_order, resize
from bratsml.errors import DataError
from bratsml.geometry import Array, CropBox, Reorientation
from bratsml.labels import LabelMap

Volume = npt.NDArray[Any]
"""Shape ``(X, Y, Z)``, of any real type, often a view that runs backwards."""
Mask = npt.NDArray[np.bool_]
Result = tuple[CropBox, Array, dict[str, Intensity]]


_MAX_TABLE = 1 << 16


def apply_recipe(recipe: RecipeConfig, images: Sequence[Array], case: CaseFiles) -> Result:
    """Crop and normalise the four modalities.

    Args:
        images: Volumes of one shape ``(X, Y, Z)``, RAS, 1 mm, in the order of ``MODALITIES``.
        case: Named in errors.

    Returns:
        The crop box, the stored image ``(4, ...)``, and what normalisation was based on.

    Raises:
        DataError: Nothing to crop to, or a modality without contrast where it counts.
    """
    if isinstance(recipe, NativeRecipe):
        return _native(recipe, list(images), case)
    return _resize128(recipe, list(images), case)


def crop_label(recipe: RecipeConfig, label: LabelMap, box: CropBox) -> LabelMap:
    """The label map on the stored grid, values unchanged."""
    cropped = np.ascontiguousarray(box.crop(label))
    if isinstance(recipe, Resize128Recipe):
        cropped = resize(cropped, recipe.shape, linear=False)
    return cast(LabelMap, cropped)


def _native(recipe: NativeRecipe, images: list[Volume], case: CaseFiles) -> Result:
    """Crop to the voxels where any modality is not zero; z-score each modality there."""
    box, brain = _crop_to_content(images, [0.0] * len(images), recipe.margin_voxels, case)
    image = np.empty((len(MODALITIES), *box.shape), dtype=recipe.dtype)
    intensities: dict[str, Intensity] = {}
    for channel, modality in enumerate(MODALITIES):
        cropped = box.crop(images[channel])
        found = _intensity(cropped, brain)
        if found.std == 0:
            raise _without_contrast(modality, case)
        intensities[modality] = found
        reach = max(0.0, found.maximum) - min(0.0, found.minimum)
        if cropped.dtype.kind in "iu" and reach < _MAX_TABLE:
            _score_by_table(cropped, brain, found, image[channel])
        else:
            scored = (cropped.astype(np.float64) - found.mean) / found.std
            image[channel] = np.where(brain, scored, 0.0)
    return box, image, intensities


def _score_by_table(volume: Volume, brain: Mask, found: Intensity, out: Volume) -> None:
    """Write z-scores of whole numbers into ``out``: each value is scored and rounded only once.

    It goes by planes that fit the processor's cache, in the order of the memory. Outside the brain
    every voxel is 0, so 0 is given the score 0, and the zeros inside are seen to afterwards.
    """
    low, high = min(0, round(found.minimum)), max(0, round(found.maximum))
    table = ((np.arange(low, high + 1) - found.mean) / found.std).astype(out.dtype)
    score_of_zero = table[-low]
    table[-low] = 0.0
    layout = memory_order(volume)
    source, target = cast(npt.NDArray[np.integer], layout.apply(volume)), layout.apply(out)
    for y in range(source.shape[1]):
        plane = source[:, y]
        target[:, y] = table.take(plane if low == 0 else plane.astype(np.intp) - low)
    if found.minimum <= 0 <= found.maximum:
        target[layout.apply(brain) & (source == 0)] = score_of_zero


def _resize128(recipe: Resize128Recipe, images: list[Volume], case: CaseFiles) -> Result:
    """Scale each modality to 0..1 over the whole volume, crop where any is above 0, resize.

    Scaling commutes with linear interpolation, so it is done last, on fewer voxels.
    """
    layout = memory_order(images[0])
    lows = [float(layout.apply(image).min()) for image in images]
    highs = [float(layout.apply(image).max()) for image in images]
    box, above = _crop_to_content(images, lows, 0, case)
    result = np.empty((len(MODALITIES), *recipe.shape), dtype=recipe.dtype)
    intensities: dict[str, Intensity] = {}
    for channel, modality in enumerate(MODALITIES):
        low, high = lows[channel], highs[channel]
        if low == high:  # the only bright voxels were lost on the way to 1 mm
            raise _without_contrast(modality, case)
        cropped = box.crop(images[channel])
        intensities[modality] = _intensity(cropped, above)
        resized = cast(npt.NDArray[np.float32], resize(cropped, recipe.shape, linear=True))
        resized -= np.float32(low)
        np.multiply(resized, np.float32(1.0 / (high - low)), out=result[channel], casting="unsafe")
    return box, result, intensities


def _crop_to_content(
    images: Sequence[Volume], levels: Sequence[float], margin: int, case: CaseFiles
) -> tuple[CropBox, Mask]:
    """Box around the voxels where any volume differs from its level, and the mask within it."""
    layout = memory_order(images[0])
    ordered = [layout.apply(image) for image in images]
    # A Python float would turn whole numbers into floats, voxel by voxel.
    exact = [image.dtype.type(level) for image, level in zip(ordered, levels, strict=True)]
    mask = ordered[0] != exact[0]
    other = np.empty_like(mask)
    for image, level in zip(ordered[1:], exact[1:], strict=True):
        mask |= np.not_equal(image, level, out=other)
    turned = CropBox.around(mask, margin)
    if turned is None:
        raise DataError(case.id, "", "the foreground is empty", "export the case again")
    box = _before_turn(turned, layout, images[0].shape)
    return box, cast(Mask, box.crop(layout.undo(mask)))


def _before_turn(box: CropBox, turn: Reorientation, shape: tuple[int, ...]) -> CropBox:
    """The box in the axes that ``turn`` was applied to."""
    start, stop = [0, 0, 0], [0, 0, 0]
    for turned, (axis, flip) in enumerate(zip(turn.permutation, turn.flips, strict=True)):
        a, b = box.start[turned], box.stop[turned]
        start[axis], stop[axis] = (shape[axis] - b, shape[axis] - a) if flip else (a, b)
    return CropBox((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


def _intensity(volume: Volume, mask: Mask) -> Intensity:
    layout = memory_order(volume)
    values = layout.apply(volume)[layout.apply(mask)]
    numbers = values.astype(np.float64)
    mean = float(numbers.mean())
    numbers -= mean
    return Intensity(
        mean=mean,
        std=float(np.sqrt(numbers @ numbers / numbers.size)),
        minimum=float(values.min()),
        maximum=float(values.max()),
    )


def _without_contrast(modality: str, case: CaseFiles) -> DataError:
    reason = f"{modality} has zero variance inside the brain"
    return DataError(case.id, case.images[modality].name, reason, "export the file again")
