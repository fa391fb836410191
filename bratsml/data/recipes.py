"""Recipes of preprocessing: what is done to a case between its files and the store."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bratsml.config import Config
from bratsml.geometry import Shape

SPACING_MM = 1.0
"""Voxel size of every stored case (before ``resize128`` squeezes it)."""
SPACING_TOLERANCE_MM = 1e-3
"""A case this close to the target spacing is taken as it is: no interpolation, exact restoring."""

StoredType = Literal["float16", "float32"]


class NativeRecipe(Config):
    """The case in its own voxels: RAS, 1 mm, cropped to the brain, z-scored inside it.

    The brain is where any modality is not zero; each modality gets mean 0 and standard deviation 1
    there, and everything outside stays 0. Nothing is interpolated when the case is at 1 mm already.

    Attributes:
        margin_voxels: Voxels kept around the brain on each side, within the volume.
        dtype: Stored type; z-scores fit float16 with three digits.
    """

    kind: Literal["native"] = "native"
    margin_voxels: int = Field(default=4, ge=0, le=64)
    dtype: StoredType = "float16"


class Resize128Recipe(Config):
    """The case squeezed into a cube: RAS, 1 mm, each modality to 0..1, cropped, resized.

    The steps of many public BraTS projects, kept to answer to their numbers. The crop is to where
    any modality exceeds its minimum; images are resized linearly, labels to the nearest voxel.

    Attributes:
        shape: Voxels after resizing; the voxels are no longer cubes.
        dtype: Stored type.
    """

    kind: Literal["resize128"] = "resize128"
    shape: Shape = (128, 128, 128)
    dtype: StoredType = "float32"


RecipeConfig = Annotated[NativeRecipe | Resize128Recipe, Field(discriminator="kind")]
"""One of the recipes, told apart by ``kind``."""

RECIPES: dict[str, type[NativeRecipe] | type[Resize128Recipe]] = {
    "native": NativeRecipe,
    "resize128": Resize128Recipe,
}

RECIPE_VERSION = {"native": 1, "resize128": 1}
"""Raised whenever the code of a recipe gives other numbers, so that stored cases are made anew."""
