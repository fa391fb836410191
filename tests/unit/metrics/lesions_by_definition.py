"""The lesion-wise rules written down step by step on whole volumes, without regard to time.

Shares nothing with ``bratsml.metrics``: SciPy's dilation, labelling and distance transforms,
MONAI's table of element areas, and the challenges' parameters a second time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from monai.metrics.utils import create_table_neighbour_code_to_surface_area
from scipy import ndimage

FACES_AND_EDGES = ndimage.generate_binary_structure(3, 2)
WITH_CORNERS = np.ones((3, 3, 3), bool)
CODE = np.array([[[128, 64], [32, 16]], [[8, 4], [2, 1]]])


@dataclass
class Parameters:
    regions: tuple
    d: int
    t: float
    h: float | None
    d_of: dict = field(default_factory=dict)
    t_of: dict = field(default_factory=dict)
    drop: str = ""
    merge: dict = field(default_factory=dict)
    punish_false: bool = True


THREE = ("WT", "TC", "ET")
ACROSS = {"ET": ["NETC"]}
GLIOMA = {
    "NETC": ["ET", "RC"],
    "ET": ["NETC", "RC"],
    "RC": ["ET", "NETC"],
    "SNFH": ["ET", "RC", "NETC"],
}
GLI_2024 = Parameters(
    ("WT", "TC", "NETC", "SNFH", "ET", "RC"),
    3, 20, 337, {"NETC": 5, "RC": 5}, {"ET": 10}, "voxels", GLIOMA,
)  # fmt: skip
SSA_2024 = Parameters(THREE, 3, 50, 374, drop="voxels", merge=ACROSS)
PED_2024 = Parameters((*THREE, "NETC", "CC", "ED"), 5, 10, 374, drop="voxels")
RT = Parameters(("GTV",), 1, 50, None, drop="mm3", punish_false=False)
PARAMETERS = {
    "brats2023-gli": Parameters(THREE, 3, 50, 374),
    "brats2023-ssa": Parameters(THREE, 3, 50, 374),
    "brats2023-ped": Parameters(THREE, 3, 50, 374),
    "brats2023-men": Parameters(THREE, 1, 50, 374),
    "brats2023-met": Parameters(THREE, 1, 2, 374),
    "brats2024-gli": GLI_2024,
    "brats2024-ssa": SSA_2024,
    "brats2024-ped": PED_2024,
    "brats2024-met": Parameters(THREE, 1, 2, 374, drop="voxels", merge=ACROSS),
    "brats2024-men-rt": RT,
    "brats2025-gli": GLI_2024,
    "brats2025-ssa": SSA_2024,
    "brats2025-ped": PED_2024,
    "brats2025-met": Parameters((*THREE, "RC"), 1, 2, None, drop="voxels", merge=ACROSS),
    "brats2025-men-rt": RT,
    "brats2025-men": Parameters(THREE, 1, 50, 374),
}


def grown(mask, times):
    return ndimage.binary_dilation(mask, FACES_AND_EDGES, iterations=times) if times else mask


def lesions(mask, dilation):
    labels, _ = ndimage.label(grown(mask, dilation), WITH_CORNERS)
    return labels * mask


def elements(mask, spacing):
    """Where the surface has elements, on the grid of corners, and their areas."""
    codes = ndimage.correlate(np.pad(mask, 1).astype(np.uint8), CODE, mode="constant")
    areas, _ = create_table_neighbour_code_to_surface_area(spacing, device="cpu")
    return (codes != 0) & (codes != 255), areas.numpy().astype(float)[codes]


def cut(first, second):
    """Both masks in the smallest box around both, as surface-distance does."""
    inside = np.argwhere(first | second)
    box = tuple(slice(a, b + 1) for a, b in zip(inside.min(0), inside.max(0), strict=True))
    return first[box], second[box]


def hd95(first, second, spacing):
    if not (first.any() and second.any()):
        return math.inf
    first, second = cut(first, second)
    (edges1, areas1), (edges2, areas2) = elements(first, spacing), elements(second, spacing)
    return max(
        percentile(ndimage.distance_transform_edt(~edges2, spacing)[edges1], areas1[edges1]),
        percentile(ndimage.distance_transform_edt(~edges1, spacing)[edges2], areas2[edges2]),
    )


def percentile(distances, areas):
    order = np.argsort(distances, kind="stable")
    reached = np.cumsum(areas[order]) / areas.sum()
    return distances[order][min(np.searchsorted(reached, 0.95), len(order) - 1)]


def nsd(first, second, spacing, tolerance):
    if not (first.any() and second.any()):
        return 0.0
    first, second = cut(first, second)
    rims = [mask & ~ndimage.binary_erosion(mask) for mask in (first, second)]
    shares = [
        (ndimage.distance_transform_edt(~other, spacing)[rim] <= tolerance).mean()
        for rim, other in (rims, rims[::-1])
    ]
    return sum(shares) / 2


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def merged(labels, partner):
    """Lesions whose first touching partner is the same get one label."""
    new = labels.copy()
    taken = {}
    for lesion in np.unique(labels[labels > 0]):
        near = grown(labels == lesion, 1)
        met = [p for p in np.unique(partner[partner > 0]) if (near & (partner == p)).any()]
        if met:
            new[labels == lesion] = taken.setdefault(min(met), lesion)
    return new


def sides(p, prediction, reference, spacing):
    """Labelled lesions of every tissue: predicted, reference."""
    predicted, true = {}, {}
    for tissue in prediction:
        d = p.d_of.get(tissue, p.d)
        true[tissue] = lesions(reference[tissue], d)
        labels = lesions(prediction[tissue], d if p.drop else 0)
        if p.drop:
            unit = math.prod(spacing) if p.drop == "mm3" else 1
            for lesion in np.unique(labels[labels > 0]):
                if (labels == lesion).sum() <= p.t_of.get(tissue, p.t) / unit:
                    labels[labels == lesion] = 0
        predicted[tissue] = labels
    found = dict(predicted), dict(true)
    for tissue, partners in p.merge.items():
        for labels, first in zip((predicted, true), found, strict=True):
            if tissue in p.regions:
                for partner in partners:
                    labels[tissue] = merged(labels[tissue], first[partner])
    return predicted, true


def score(name, prediction, reference, spacing, tolerances=(0.5, 1.0)):
    """``{region: {score: value}}``; NSDs as lists over the tolerances."""
    p = PARAMETERS[name]
    predicted, true = sides(p, prediction, reference, spacing)
    shape = prediction[p.regions[0]].shape
    h = math.sqrt(sum(n**2 for n in shape)) if p.h is None else p.h
    return {
        region: score_region(
            predicted[region], true[region], spacing, tolerances, h,
            p.d_of.get(region, p.d), p.t_of.get(region, p.t), p.punish_false,
        )
        for region in p.regions
    }  # fmt: skip


def score_region(predicted, true, spacing, tolerances, h, d, t, punish_false):
    ours, theirs = predicted > 0, true > 0
    rows, used = [], set()
    for lesion in np.unique(true[theirs]):
        g = true == lesion
        met = set(np.unique(predicted[grown(g, d) & ours]))
        used |= met
        matches = np.isin(predicted, list(met)) & ours
        distance = hd95(matches, g, spacing)
        rows.append(
            {
                "counts": g.sum() * math.prod(spacing) > t,
                "met": bool(met),
                "dice": dice(matches, g),
                "hd95": h if math.isinf(distance) else distance,
                "nsd": [nsd(matches, g, spacing, mm) for mm in tolerances],
            }
        )
    counted = [row for row in rows if row["counts"]]
    num_false = len(set(np.unique(predicted[ours])) - used)
    punished = num_false if punish_false else 0
    number = len(counted) + punished
    empty = not ours.any() and not theirs.any()
    whole = 0.0 if empty else hd95(ours, theirs, spacing)
    return {
        "num_matched": sum(row["met"] for row in counted),
        "num_missed": sum(not row["met"] for row in counted),
        "num_false": num_false,
        "dice": 1.0 if empty else dice(ours, theirs),
        "hd95_mm": h if math.isinf(whole) else whole,
        "nsd": [1.0 if empty else nsd(ours, theirs, spacing, mm) for mm in tolerances],
        "lesion_dice": sum(row["dice"] for row in counted) / number if number else 1.0,
        "lesion_hd95_mm": (sum(row["hd95"] for row in counted) + punished * h) / number
        if number
        else 0.0,
        "lesion_nsd": [
            sum(row["nsd"][i] for row in counted) / number if number else 1.0
            for i in range(len(tolerances))
        ],
    }
