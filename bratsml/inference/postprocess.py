"""From probabilities per region to masks: a list of named steps, kept nested throughout.

Regions lie inside each other (ET in TC in WT). Whatever a step takes away from a region it takes
away from the regions inside it too, and whatever it adds, it adds to the regions around it; so the
masks always say the same as the label map that is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import ndimage

from bratsml.config import Config
from bratsml.errors import ConfigError
from bratsml.labels import LabelScheme

Masks = npt.NDArray[np.bool_]
"""Shape ``(R, X, Y, Z)``, one volume per region."""
Probabilities = npt.NDArray[np.floating]
"""Shape ``(R, X, Y, Z)``, 0 to 1."""
Volume = npt.NDArray[np.bool_]
Share = Annotated[float, Field(gt=0, lt=1)]

NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)
"""Voxels that share a face, an edge or a corner belong together."""


@dataclass(frozen=True)
class Regions:
    """The regions of a stack, in order, and which lie inside which.

    Attributes:
        inner: Region to the regions that lie inside it.
    """

    names: tuple[str, ...]
    inner: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, scheme: LabelScheme, names: Sequence[str]) -> Regions:
        """As the label values of a scheme imply."""
        scheme.require_regions(names)
        values = {name: set(scheme.regions[name]) for name in names}
        return cls(
            tuple(names),
            {
                outer: tuple(name for name in names if values[name] < values[outer])
                for outer in names
            },
        )

    def index(self, name: str) -> int:
        """Place of a region in the stack.

        Raises:
            ConfigError: There is no such region.
        """
        if name not in self.names:
            raise ConfigError(
                f"post-processing names region {name!r}; the network gives {', '.join(self.names)}"
            )
        return self.names.index(name)

    def grow(self, masks: Masks) -> None:
        """Add to every region what lies in the regions inside it, in place."""
        for outer, inner in self.inner.items():
            for name in inner:
                masks[self.index(outer)] |= masks[self.index(name)]

    def replace(self, masks: Masks, name: str, mask: Volume) -> None:
        """Give a region another mask, in place, and keep the nesting."""
        place = self.index(name)
        gone = masks[place] & ~mask
        masks[place] = mask
        for inside in self.inner[name]:
            masks[self.index(inside)] &= ~gone
        self.grow(masks)


class Threshold(Config):
    """A voxel belongs to a region above that region's probability.

    Attributes:
        above: Region to probability; regions not named keep their masks.
    """

    kind: Literal["threshold"] = "threshold"
    above: dict[str, Share]

    def apply(self, masks: Masks, probabilities: Probabilities, case: Regions) -> None:
        """Change the masks in place."""
        for name, value in self.above.items():
            place = case.index(name)
            masks[place] = probabilities[place] > value
        case.grow(masks)


class _OfRegion(Config):
    region: str

    def apply(self, masks: Masks, probabilities: Probabilities, case: Regions) -> None:
        """Change the masks in place."""
        place = case.index(self.region)
        if masks[place].any():
            changed = self.changed(masks[place], probabilities[place])
            case.replace(masks, self.region, changed)

    def changed(self, mask: Volume, probabilities: npt.NDArray[np.floating]) -> Volume:
        """The region's new mask."""
        raise NotImplementedError


class MinComponent(_OfRegion):
    """Drop components of fewer voxels."""

    kind: Literal["min_component"] = "min_component"
    voxels: int = Field(ge=1)

    def changed(self, mask: Volume, probabilities: npt.NDArray[np.floating]) -> Volume:
        """See :class:`_OfRegion`."""
        numbered, sizes = components(mask)
        return (sizes >= self.voxels)[numbered] & mask


class MaxComponents(_OfRegion):
    """Keep the largest components only; of equals the first in C order."""

    kind: Literal["max_components"] = "max_components"
    count: int = Field(ge=1)

    def changed(self, mask: Volume, probabilities: npt.NDArray[np.floating]) -> Volume:
        """See :class:`_OfRegion`."""
        numbered, sizes = components(mask)
        sizes[0] = 0
        kept = np.zeros(len(sizes), dtype=bool)
        kept[np.argsort(-sizes, kind="stable")[: self.count]] = True
        kept[0] = False
        return kept[numbered]


class MinMeanProbability(_OfRegion):
    """Drop components whose mean probability is lower."""

    kind: Literal["min_mean_probability"] = "min_mean_probability"
    value: Share

    def changed(self, mask: Volume, probabilities: npt.NDArray[np.floating]) -> Volume:
        """See :class:`_OfRegion`."""
        numbered, sizes = components(mask)
        sums = np.bincount(numbered.ravel(), probabilities.ravel(), len(sizes))
        return (sums >= self.value * np.maximum(sizes, 1))[numbered] & mask


class FillHoles(_OfRegion):
    """Add the holes: what cannot be reached from outside through faces."""

    kind: Literal["fill_holes"] = "fill_holes"

    def changed(self, mask: Volume, probabilities: npt.NDArray[np.floating]) -> Volume:
        """See :class:`_OfRegion`."""
        filled: Volume = ndimage.binary_fill_holes(mask)
        return filled


class DropIfSmall(_OfRegion):
    """Empty a region of fewer voxels in all; the regions around it keep them.

    With ``region: ET`` little enhancing tumour becomes tumour core, as is usual for BraTS, where a
    few false voxels in a case without enhancing tumour cost the whole Dice.
    """

    kind: Literal["drop_if_small"] = "drop_if_small"
    voxels: int = Field(ge=1)

    def changed(self, mask: Volume, probabilities: npt.NDArray[np.floating]) -> Volume:
        """See :class:`_OfRegion`."""
        return mask if int(mask.sum()) >= self.voxels else np.zeros_like(mask)


Step = Annotated[
    Threshold | MinComponent | MaxComponents | MinMeanProbability | FillHoles | DropIfSmall,
    Field(discriminator="kind"),
]
"""One of the steps, told apart by ``kind``."""


def postprocess(
    masks: Masks, probabilities: Probabilities, regions: Regions, steps: Sequence[Step]
) -> Masks:
    """The masks after all steps, in order; the masks given are not changed.

    Args:
        masks: What the network's output means without any step.
        probabilities: Same shape, per region.

    Raises:
        ConfigError: A step names a region that is not there.
    """
    changed = masks.copy()
    regions.grow(changed)
    for step in steps:
        step.apply(changed, probabilities, regions)
    return changed


def require_known_regions(steps: Sequence[Step], names: Sequence[str]) -> None:
    """Refuse steps for regions that the network does not give.

    Raises:
        ConfigError: Naming the region and those there are.
    """
    known = Regions(tuple(names), {})
    for step in steps:
        for name in step.above if isinstance(step, Threshold) else (step.region,):
            known.index(name)


def components(mask: Volume) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Number of every voxel's component, 0 outside, and the size of each (index 0: outside)."""
    box = bounding_box(mask)
    numbered = np.zeros(mask.shape, dtype=np.int32)
    count = ndimage.label(mask[box], NEIGHBOURS, output=numbered[box])
    return numbered, np.bincount(numbered.ravel(), minlength=count + 1)


def bounding_box(mask: Volume) -> tuple[slice, ...]:
    """Smallest box that holds the mask; empty slices for an empty one."""
    box: list[slice] = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        where = np.flatnonzero(mask.any(axis=others))
        box.append(slice(int(where[0]), int(where[-1]) + 1) if len(where) else slice(0, 0))
    return tuple(box)
