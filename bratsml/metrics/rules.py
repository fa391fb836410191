"""The lesion-wise scoring rules of the BraTS challenges, by year, as data.

One engine (:mod:`bratsml.metrics.lesions`) computes all of them. Sources: the organisers' programs
for 2023 (github.com/rachitsaluja/BraTS-2023-Metrics) and for 2024 and 2025
(github.com/rachitsaluja/BraTS-2024-Metrics and its successor); what they give for real predictions
is met by the tests. Numbers of different rules are not comparable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from bratsml.errors import ConfigError
from bratsml.geometry import Shape

Filter = Literal["none", "voxels", "mm3"]


@dataclass(frozen=True)
class Rule:
    """How one challenge of one year scores lesions.

    Attributes:
        name: Stored with every score.
        label_scheme: Key in :data:`bratsml.labels.SCHEMES` of what was scored.
        regions: Scored regions, in the organisers' order.
        dilation: How often lesions grow before those that meet become one, and before predicted
            lesions are matched.
        dilation_of: Regions that differ.
        threshold_mm3: Reference lesions up to this volume do not count.
        threshold_of: Regions that differ.
        penalty_mm: HD95 of a missed or false lesion; ``None`` for the diagonal of the volume,
            counted in voxels.
        prediction_filter: Predicted lesions up to the threshold are dropped first, counted in
            voxels or in mm3. With a filter, predicted lesions merge by dilation as those of the
            reference do; without, they are plain components.
        partners: Tissue and the tissues across which its lesions merge, in this order.
        count_false_lesions: Whether false lesions lower the scores; they are counted anyway.
        tolerances_mm: Of the normalised surface Dice; none if the rule has no such score.
        missing_hd95_mm: HD95 of a case without a prediction; its Dice and NSD are 0.
    """

    name: str
    label_scheme: str
    regions: tuple[str, ...]
    dilation: int
    threshold_mm3: float
    penalty_mm: float | None = 374.0
    dilation_of: Mapping[str, int] = field(default_factory=dict)
    threshold_of: Mapping[str, float] = field(default_factory=dict)
    prediction_filter: Filter = "none"
    partners: tuple[tuple[str, tuple[str, ...]], ...] = ()
    count_false_lesions: bool = True
    tolerances_mm: tuple[float, ...] = ()
    missing_hd95_mm: float = 374.0

    @property
    def tissues(self) -> tuple[str, ...]:
        """Regions whose masks are needed: the scored ones, then those that only merge lesions."""
        partners = (partner for _, several in self.partners for partner in several)
        return tuple(dict.fromkeys((*self.regions, *partners)))

    def dilation_in(self, region: str) -> int:
        """Iterations of the dilation for lesions of the region."""
        return self.dilation_of.get(region, self.dilation)

    def threshold_in(self, region: str) -> float:
        """Volume in mm3 up to which lesions of the region do not count."""
        return self.threshold_of.get(region, self.threshold_mm3)

    def partners_of(self, region: str) -> tuple[str, ...]:
        """Tissues across which lesions of the region merge."""
        return dict(self.partners).get(region, ())

    def penalty_in(self, shape: Shape) -> float:
        """HD95 of a missed or false lesion in a volume of ``(X, Y, Z)`` voxels."""
        return math.hypot(*shape) if self.penalty_mm is None else self.penalty_mm


_CLASSIC = ("WT", "TC", "ET")
_POST_TREATMENT = ("WT", "TC", "NETC", "SNFH", "ET", "RC")
_PEDIATRIC = ("WT", "TC", "ET", "NETC", "CC", "ED")
_ET_BY_NETC = (("ET", ("NETC",)),)
_GLIOMA_PARTNERS = (
    ("NETC", ("ET", "RC")),
    ("ET", ("NETC", "RC")),
    ("RC", ("ET", "NETC")),
    ("SNFH", ("ET", "RC", "NETC")),
)

_GLI_2023 = Rule("brats2023-gli", "brats2023", _CLASSIC, dilation=3, threshold_mm3=50)
_MEN_2023 = replace(_GLI_2023, name="brats2023-men", dilation=1)
_GLI_2024 = Rule(
    "brats2024-gli",
    "brats2024-gli",
    _POST_TREATMENT,
    dilation=3,
    dilation_of={"NETC": 5, "RC": 5},
    threshold_mm3=20,
    threshold_of={"ET": 10},
    penalty_mm=337.0,
    prediction_filter="voxels",
    partners=_GLIOMA_PARTNERS,
    missing_hd95_mm=337.0,
)
_SSA_2024 = Rule(
    "brats2024-ssa",
    "brats2023",
    _CLASSIC,
    dilation=3,
    threshold_mm3=50,
    prediction_filter="voxels",
    partners=_ET_BY_NETC,
)
_PED_2024 = Rule(
    "brats2024-ped",
    "brats2024-ped",
    _PEDIATRIC,
    dilation=5,
    threshold_mm3=10,
    prediction_filter="voxels",
)
_MET_2024 = replace(_SSA_2024, name="brats2024-met", dilation=1, threshold_mm3=2)
_MEN_RT_2024 = Rule(
    "brats2024-men-rt",
    "brats2024-men-rt",
    ("GTV",),
    dilation=1,
    threshold_mm3=50,
    penalty_mm=None,
    prediction_filter="mm3",
    count_false_lesions=False,
)


def _of_2025(rule: Rule) -> Rule:
    """The rule a year later: with the normalised surface Dice."""
    name = rule.name.replace("2024", "2025")
    return replace(rule, name=name, tolerances_mm=(0.5, 1.0))


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        _GLI_2023,
        replace(_GLI_2023, name="brats2023-ssa"),
        replace(_GLI_2023, name="brats2023-ped"),
        _MEN_2023,
        replace(_MEN_2023, name="brats2023-met", threshold_mm3=2),
        _GLI_2024,
        _SSA_2024,
        _PED_2024,
        _MET_2024,
        _MEN_RT_2024,
        _of_2025(_GLI_2024),
        _of_2025(_SSA_2024),
        _of_2025(_PED_2024),
        replace(
            _of_2025(_MET_2024),
            label_scheme="brats2025-met",
            regions=(*_CLASSIC, "RC"),
            penalty_mm=None,
        ),
        _of_2025(_MEN_RT_2024),
        replace(_MEN_2023, name="brats2025-men"),
    )
}


def get_rule(name: str) -> Rule:
    """The rule of that name.

    Raises:
        ConfigError: Unknown name; lists the known ones.
    """
    if name not in RULES:
        raise ConfigError(f"scoring rule {name!r} is unknown; use one of {', '.join(RULES)}")
    return RULES[name]
