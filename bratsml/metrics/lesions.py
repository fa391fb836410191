"""Lesion-wise scores: every lesion of the reference counts the same, every false one counts too.

For each region of a :class:`bratsml.metrics.rules.Rule`:

1. Lesions of the reference are its components after dilation. So are those of the prediction, if
   the rule filters them; else they are plain components. Lesions of some tissues then merge across
   others.
2. A lesion of the reference is matched by all predicted lesions that touch its dilation, and
   compared with the whole of them: Dice, HD95, NSD. Without any: Dice 0, NSD 0, HD95 the penalty H.
3. Predicted lesions that match no lesion of the reference are false, F of them.
4. With K lesions of the reference above the volume threshold: ``sum(Dice) / (K + F)``,
   ``(sum(HD95) + H F) / (K + F)``, ``sum(NSD) / (K + F)``; 1, 0 and 1 if K + F is 0.

A predicted lesion that only lesions below the threshold explain is matched: it neither helps nor
hurts. HD95 is taken over surface elements by area, NSD over boundary voxels
(:mod:`bratsml.metrics.surface_points`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from bratsml.geometry import CropBox, Shape, Spacing
from bratsml.metrics.instances import Instances, find_instances, merge_by_partner
from bratsml.metrics.masks import BoolVolume, require_masks, require_spacing
from bratsml.metrics.matching import MatchedLesions
from bratsml.metrics.rules import Rule

Masks = Mapping[str, BoolVolume]
"""Region to mask, all of one shape ``(X, Y, Z)``."""


@dataclass(frozen=True)
class LesionScore:
    """One lesion of the reference against the predicted lesions that match it.

    Attributes:
        volume_mm3: Of the lesion itself.
        counts: Whether it is above the rule's threshold.
        num_matches: Predicted lesions that match it; 0 if it was missed.
        hd95_mm: The rule's penalty if it was missed.
        nsd: One value per tolerance of the rule.
    """

    volume_mm3: float
    counts: bool
    num_matches: int
    dice: float
    hd95_mm: float
    nsd: tuple[float, ...]


@dataclass(frozen=True)
class RegionScore:
    """One region of one case by one rule.

    Attributes:
        dice, hd95_mm, nsd: Of the whole region, after the rule's filter.
        lesion_dice, lesion_hd95_mm, lesion_nsd: Means over lesions, as the rule takes them.
        num_matched, num_missed: Lesions of the reference above the threshold.
        num_false: Predicted lesions that match none.
        sensitivity, specificity: Of voxels, over the whole volume; sensitivity is 1 if both masks
            are empty and 0 if one is.
        lesions: Those of the reference, the ones below the threshold too.
    """

    region: str
    dice: float
    hd95_mm: float
    nsd: tuple[float, ...]
    lesion_dice: float
    lesion_hd95_mm: float
    lesion_nsd: tuple[float, ...]
    num_matched: int
    num_missed: int
    num_false: int
    sensitivity: float
    specificity: float
    reference_mm3: float
    prediction_mm3: float
    lesions: tuple[LesionScore, ...] = field(default=(), repr=False)


def score_lesions(
    prediction: Masks,
    reference: Masks,
    spacing_mm: Spacing,
    rule: Rule,
    *,
    shape: Shape | None = None,
    threads: int = 1,
) -> tuple[RegionScore, ...]:
    """Score one case by one rule.

    Args:
        prediction: Masks of the rule's ``tissues``; NETC may be missing, it is then TC without ET.
        reference: Likewise.
        shape: Of the whole volume in voxels, if the masks are a part of it.
        threads: Regions worked on at a time.

    Returns:
        One score per region of the rule, in its order.

    Raises:
        ValueError: A mask is missing or not boolean, shapes differ, or voxel sizes are not finite
            and above 0.
    """
    require_spacing(spacing_mm)
    ours, theirs = _with_netc(prediction, rule), _with_netc(reference, rule)
    for tissue in rule.tissues:
        require_masks(ours[tissue], theirs[tissue])
    x, y, z = theirs[rule.regions[0]].shape
    case = _Case(rule, spacing_mm, shape or (x, y, z))
    box = case.box_around([*ours.values(), *theirs.values()])
    with ThreadPoolExecutor(threads) as pool:
        predicted = dict(pool.map(lambda t: (t, case.predicted(t, ours[t][box.slices])), ours))
        true = dict(pool.map(lambda t: (t, case.true(t, theirs[t][box.slices])), theirs))
        return tuple(
            pool.map(
                lambda r: case.score(r, case.merged(r, predicted), case.merged(r, true)),
                rule.regions,
            )
        )


def missing_case(rule: Rule) -> tuple[RegionScore, ...]:
    """Scores of a case without a prediction: the worst the rule gives; volumes are NaN."""
    none = (0.0,) * len(rule.tolerances_mm)
    overlap = (0.0, rule.missing_hd95_mm, none)
    unknown = (math.nan, math.nan, math.nan)
    return tuple(
        RegionScore(region, *overlap, *overlap, 0, 0, 0, 0.0, *unknown) for region in rule.regions
    )


@dataclass(frozen=True)
class _Case:
    """What the steps of one case have in common."""

    rule: Rule
    spacing_mm: Spacing
    shape: Shape

    def box_around(self, masks: Iterable[BoolVolume]) -> CropBox:
        """Smallest box around all masks that leaves room for every dilation."""
        margin = max(self.rule.dilation_in(tissue) for tissue in self.rule.tissues)
        content = np.logical_or.reduce(list(masks))
        return CropBox.around(content, margin) or CropBox((0, 0, 0), (1, 1, 1))

    def predicted(self, tissue: str, mask: BoolVolume) -> Instances:
        """Predicted lesions of a tissue that the rule keeps."""
        if self.rule.prediction_filter == "none":
            return find_instances(mask, 0)
        unit_mm3 = self._voxel_mm3 if self.rule.prediction_filter == "mm3" else 1.0
        lesions = find_instances(mask, self.rule.dilation_in(tissue))
        small = lesions.sizes <= self.rule.threshold_in(tissue) / unit_mm3
        return lesions.without(np.flatnonzero(small))

    def true(self, tissue: str, mask: BoolVolume) -> Instances:
        """Lesions of a tissue in the reference."""
        return find_instances(mask, self.rule.dilation_in(tissue))

    def merged(self, region: str, found: Mapping[str, Instances]) -> Instances:
        """Lesions of the region after merging across its partners, each partner as found."""
        lesions = found[region]
        for partner in self.rule.partners_of(region):
            lesions = merge_by_partner(lesions, found[partner])
        return lesions

    def score(self, region: str, predicted: Instances, true: Instances) -> RegionScore:
        """The scores of one region, given its lesions on both sides."""
        rule = self.rule
        pair = MatchedLesions(predicted, true, self.spacing_mm)
        lesions = tuple(self._score_lesion(region, pair, int(n)) for n in true.numbers)
        counted = [lesion for lesion in lesions if lesion.counts]
        missed = sum(lesion.num_matches == 0 for lesion in counted)
        num_false = len(pair.false_lesions())
        punished = num_false if rule.count_false_lesions else 0
        number = len(counted) + punished
        hd95 = sum(lesion.hd95_mm for lesion in counted) + punished * self._penalty_mm
        sensitivity, specificity = self._of_voxels(pair)
        dice, whole_hd95, nsd = self._whole(pair)
        return RegionScore(
            region=region,
            dice=dice,
            hd95_mm=whole_hd95,
            nsd=nsd,
            lesion_dice=sum(one.dice for one in counted) / number if number else 1.0,
            lesion_hd95_mm=hd95 / number if number else 0.0,
            lesion_nsd=tuple(
                sum(one.nsd[i] for one in counted) / number if number else 1.0
                for i in range(len(rule.tolerances_mm))
            ),
            num_matched=len(counted) - missed,
            num_missed=missed,
            num_false=num_false,
            sensitivity=sensitivity,
            specificity=specificity,
            reference_mm3=int(true.sizes.sum()) * self._voxel_mm3,
            prediction_mm3=int(predicted.sizes.sum()) * self._voxel_mm3,
            lesions=lesions,
        )

    def _score_lesion(self, region: str, pair: MatchedLesions, lesion: int) -> LesionScore:
        volume_mm3 = int(pair.true.sizes[lesion]) * self._voxel_mm3
        counts = volume_mm3 > self.rule.threshold_in(region)
        matches = len(pair.matched_by(lesion))
        if not matches:
            nothing = (0.0,) * len(self.rule.tolerances_mm)
            return LesionScore(volume_mm3, counts, 0, 0.0, self._penalty_mm, nothing)
        dice = pair.dice(lesion)
        if not counts:  # nothing is made of its distances
            unknown = (math.nan,) * len(self.rule.tolerances_mm)
            return LesionScore(volume_mm3, counts, matches, dice, math.nan, unknown)
        nsd = pair.nsd(self.rule.tolerances_mm, lesion)
        return LesionScore(volume_mm3, counts, matches, dice, pair.hd95_mm(lesion), nsd)

    def _whole(self, pair: MatchedLesions) -> tuple[float, float, tuple[float, ...]]:
        """Dice, HD95 and NSD of the region as a whole."""
        sizes = int(pair.predicted.sizes.sum()), int(pair.true.sizes.sum())
        some = (1.0,) * len(self.rule.tolerances_mm)
        none = (0.0,) * len(self.rule.tolerances_mm)
        if not any(sizes):
            return 1.0, 0.0, some
        if not all(sizes):
            return 0.0, self._penalty_mm, none
        dice = 2.0 * pair.num_shared / sum(sizes)
        return dice, pair.hd95_mm(), pair.nsd(self.rule.tolerances_mm)

    def _of_voxels(self, pair: MatchedLesions) -> tuple[float, float]:
        """Sensitivity and specificity."""
        predicted, true = int(pair.predicted.sizes.sum()), int(pair.true.sizes.sum())
        others = math.prod(self.shape) - true
        right = others - (predicted - pair.num_shared)
        specificity = right / others if others else 0.0
        if true:
            return pair.num_shared / true, specificity
        return 0.0 if predicted else 1.0, specificity

    @property
    def _voxel_mm3(self) -> float:
        return math.prod(self.spacing_mm)

    @property
    def _penalty_mm(self) -> float:
        return self.rule.penalty_in(self.shape)


def _with_netc(masks: Masks, rule: Rule) -> dict[str, BoolVolume]:
    """The masks the rule needs; non-enhancing tumour core follows from TC and ET."""
    found = {tissue: masks[tissue] for tissue in rule.tissues if tissue in masks}
    if "NETC" in rule.tissues and "NETC" not in found and {"TC", "ET"} <= found.keys():
        found["NETC"] = found["TC"] & ~found["ET"]
    for tissue in rule.tissues:
        if tissue not in found:
            raise ValueError(f"rule {rule.name} needs a mask of {tissue}, received {list(masks)}")
    return found
