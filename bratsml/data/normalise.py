"""The arithmetic of the recipes: where to crop, how to scale, whether to resize."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from bratsml.data.cases import MODALITIES, CaseFiles
from bratsml.data.meta import Intensity
from bratsml.data.recipes import NativeRecipe, RecipeConfig, Resize128Recipe
from bratsml.data.resample import resize
from bratsml.errors import DataError
from bratsml.geometry import Array, CropBox
from bratsml.labels import LabelMap

Numbers = npt.NDArray[np.float32]
"""Raw volumes come in any real type; float32 stands for all of them here."""
Result = tuple[CropBox, Array, dict[str, Intensity]]


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
    volumes = [cast(Numbers, image) for image in images]
    if isinstance(recipe, NativeRecipe):
        return _native(recipe, volumes, case)
    return _resize128(recipe, volumes, case)


def crop_label(recipe: RecipeConfig, label: LabelMap, box: CropBox) -> LabelMap:
    """The label map on the stored grid, values unchanged."""
    cropped = np.ascontiguousarray(box.crop(label))
    if isinstance(recipe, Resize128Recipe):
        cropped = resize(cropped, recipe.shape, linear=False)
    return cast(LabelMap, cropped)


def _native(recipe: NativeRecipe, images: list[Numbers], case: CaseFiles) -> Result:
    """Crop to the voxels where any modality is not zero; z-score each modality there."""
    brain = images[0] != 0
    for other in images[1:]:
        brain |= other != 0
    box = _box_around(brain, recipe.margin_voxels, case)
    brain = np.ascontiguousarray(box.crop(brain))
    image = np.empty((len(MODALITIES), *box.shape), dtype=recipe.dtype)
    intensities: dict[str, Intensity] = {}
    for channel, modality in enumerate(MODALITIES):
        cropped = np.ascontiguousarray(box.crop(images[channel]))
        found = _intensity(cropped[brain])
        if found.std == 0:
            raise _without_contrast(modality, case)
        intensities[modality] = found
        scaled = cropped.astype(np.float32)
        scaled -= np.float32(found.mean)
        scaled *= np.float32(1.0 / found.std)
        scaled *= brain  # what lies outside stays 0
        image[channel] = scaled
    return box, image, intensities


def _resize128(recipe: Resize128Recipe, images: list[Numbers], case: CaseFiles) -> Result:
    """Scale each modality to 0..1 over the whole volume, crop where any is above 0, resize."""
    lows = [float(image.min()) for image in images]
    highs = [float(image.max()) for image in images]
    above = images[0] > lows[0]
    for other, low in zip(images[1:], lows[1:], strict=True):
        above |= other > low
    box = _box_around(above, 0, case)
    above = np.ascontiguousarray(box.crop(above))
    result = np.empty((len(MODALITIES), *recipe.shape), dtype=recipe.dtype)
    intensities: dict[str, Intensity] = {}
    for channel, modality in enumerate(MODALITIES):
        low, high = lows[channel], highs[channel]
        if low == high:  # the only bright voxels were lost on the way to 1 mm
            raise _without_contrast(modality, case)
        cropped = np.ascontiguousarray(box.crop(images[channel]))
        intensities[modality] = _intensity(cropped[above])
        scaled = cropped.astype(np.float32)
        scaled -= np.float32(low)
        scaled *= np.float32(1.0 / (high - low))
        result[channel] = resize(scaled, recipe.shape, linear=True)
    return box, result, intensities


def _box_around(mask: npt.NDArray[np.bool_], margin: int, case: CaseFiles) -> CropBox:
    box = CropBox.around(mask, margin)
    if box is None:
        raise DataError(case.id, "", "the foreground is empty", "export the case again")
    return box


def _without_contrast(modality: str, case: CaseFiles) -> DataError:
    reason = f"{modality} has zero variance inside the brain"
    return DataError(case.id, case.images[modality].name, reason, "export the file again")


def _intensity(values: npt.NDArray[np.generic]) -> Intensity:
    numbers = values.astype(np.float64)
    return Intensity(
        mean=float(numbers.mean()),
        std=float(numbers.std()),
        minimum=float(numbers.min()),
        maximum=float(numbers.max()),
    )
