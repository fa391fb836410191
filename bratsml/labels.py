"""Label schemes by BraTS year, and the way between a label map and its stack of regions.

The meaning of a label value changes between years (4 was enhancing tumour until 2021 and is the
resection cavity since 2024), so no array is interpreted without its scheme. Sources: the label
tables of the BraTS challenges 2019-2025 (synapse.org) and of the Medical Segmentation Decathlon
(Antonelli et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bratsml.errors import ConfigError

LabelMap = npt.NDArray[np.uint8]
"""Integer volume of shape ``(X, Y, Z)`` holding the values of one scheme."""
RegionStack = npt.NDArray[np.bool_]
"""Boolean stack of shape ``(R, X, Y, Z)``, one volume per region."""

DEFAULT_REGIONS = ("ET", "TC", "WT")


@dataclass(frozen=True)
class LabelScheme:
    """What the label values of one challenge mean.

    Attributes:
        name: Key in :data:`SCHEMES`.
        tissues: Tissue name to label value; background is 0 and not listed.
        regions: Region name to the label values it unites.
        painting: ``(region, value)`` in painting order: a region stack becomes a label map by
            writing each value over its region, later ones on top.
    """

    name: str
    tissues: Mapping[str, int]
    regions: Mapping[str, tuple[int, ...]]
    painting: tuple[tuple[str, int], ...]

    @property
    def values(self) -> tuple[int, ...]:
        """Allowed values in ascending order, background first."""
        return (0, *sorted(self.tissues.values()))

    def unknown_values(self, label_map: npt.NDArray[np.generic]) -> dict[float, int]:
        """Histogram of the values the scheme does not know (NaN included); empty when all fit."""
        values, counts = np.unique(label_map, return_counts=True)
        return {
            float(v): int(n)
            for v, n in zip(values, counts, strict=True)
            if float(v) not in self.values
        }

    def region_stack(
        self, label_map: npt.NDArray[np.integer], regions: Sequence[str] = DEFAULT_REGIONS
    ) -> RegionStack:
        """Masks of shape ``(R, X, Y, Z)`` of the named regions, in that order."""
        self.require_regions(regions)
        return np.stack([np.isin(label_map, self.regions[name]) for name in regions])

    def label_map(self, stack: RegionStack, regions: Sequence[str] = DEFAULT_REGIONS) -> LabelMap:
        """Label map of shape ``(X, Y, Z)`` painted from a region stack.

        A voxel takes the value of the innermost region that holds it, so the result is nested even
        where the stack is not: ET outside TC still becomes ET.
        """
        self.require_regions(regions)
        painted = np.zeros(stack.shape[1:], dtype=np.uint8)
        for name, value in self.painting:
            if name in regions:
                painted[stack[list(regions).index(name)]] = value
        return painted

    def require_regions(self, regions: Sequence[str]) -> None:
        """Refuse region names that the scheme does not define.

        Raises:
            ConfigError: Naming the first unknown region and the ones allowed.
        """
        for name in regions:
            if name not in self.regions:
                raise ConfigError(
                    f"region {name!r} is not defined by label scheme {self.name!r}; "
                    f"use {', '.join(self.regions)}"
                )


def _glioma(name: str, necrosis: int, oedema: int, enhancing: int) -> LabelScheme:
    """A scheme of the classic three tissues, whatever values the year gave them."""
    return LabelScheme(
        name=name,
        tissues={"NCR": necrosis, "ED": oedema, "ET": enhancing},
        regions={
            "ET": (enhancing,),
            "TC": (necrosis, enhancing),
            "WT": (necrosis, oedema, enhancing),
        },
        painting=(("WT", oedema), ("TC", necrosis), ("ET", enhancing)),
    )


def _with_cavity(name: str) -> LabelScheme:
    """2023's tissues plus the resection cavity, which is in neither TC nor WT."""
    return LabelScheme(
        name=name,
        tissues={"NETC": 1, "SNFH": 2, "ET": 3, "RC": 4},
        regions={
            "ET": (3,),
            "TC": (1, 3),
            "WT": (1, 2, 3),
            "NETC": (1,),
            "SNFH": (2,),
            "RC": (4,),
        },
        painting=(("RC", 4), ("WT", 2), ("SNFH", 2), ("TC", 1), ("NETC", 1), ("ET", 3)),
    )


SCHEMES: dict[str, LabelScheme] = {
    scheme.name: scheme
    for scheme in (
        _glioma("brats2021", necrosis=1, oedema=2, enhancing=4),  # 2019 to 2021
        _glioma("brats2023", necrosis=1, oedema=2, enhancing=3),  # GLI, SSA, PED, MEN, MET
        _with_cavity("brats2024-gli"),  # post-treatment glioma, 2024 and 2025
        _with_cavity("brats2025-met"),
        LabelScheme(
            name="brats2024-ped",
            tissues={"ET": 1, "NETC": 2, "CC": 3, "ED": 4},
            regions={
                "ET": (1,),
                "TC": (1, 2, 3),
                "WT": (1, 2, 3, 4),
                "NETC": (2,),
                "CC": (3,),
                "ED": (4,),
            },
            painting=(("WT", 4), ("ED", 4), ("TC", 2), ("NETC", 2), ("CC", 3), ("ET", 1)),
        ),
        LabelScheme(
            name="brats2024-men-rt",
            tissues={"GTV": 1},
            regions={"GTV": (1,)},
            painting=(("GTV", 1),),
        ),
        _glioma("decathlon", necrosis=2, oedema=1, enhancing=3),
    )
}


def get_scheme(name: str) -> LabelScheme:
    """The scheme of that name.

    Raises:
        ConfigError: Unknown name; lists the known ones.
    """
    if name not in SCHEMES:
        raise ConfigError(f"label scheme {name!r} is unknown; use one of {', '.join(SCHEMES)}")
    return SCHEMES[name]
