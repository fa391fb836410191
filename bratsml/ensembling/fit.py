"""Weights of an ensemble, one per member and region, fitted on out-of-fold probabilities.

Objective: the mean over cases of soft Dice with squares in the denominator (Milletari et al. 2016),

    D(w) = (2 sum_v p_v y_v + 1) / (sum_v p_v^2 + sum_v y_v + 1),    p_v = sum_m w_m p_mv,

over weights that are not negative and sum to one. Apart from the added voxel, which makes cases
without the region count by how little is made up there, 1 - D is the squared error relative to
the size of both volumes. Of a case it needs only sums over voxels: of p_m p_n, of p_m y and of y.
So every case is read once and then weighs a few hundred bytes, whatever its volume.

Optimiser: sequential quadratic programming (SLSQP, Kraft 1988) with the exact gradient, started
from equal weights and from near every single member; the best end counts, equal weights at a tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from bratsml.ensembling.combine import Weights
from bratsml.ensembling.volumes import MemberVolumes

Vector = npt.NDArray[np.float64]

NUM_GROUPS = 5
"""Groups of patients of the cross-fitting."""
START_SHARE = 0.9
"""Weight of the member that a start is near to."""
LEAST_GAIN = 1e-9
"""Objectives closer than this are equal."""


@dataclass(frozen=True)
class CaseSums:
    """Sums over the voxels of one case, all that fitting needs.

    Attributes:
        products, shape ``(R, M, M)``: Of p_m p_n.
        overlaps, shape ``(R, M)``: Of p_m y.
        true, shape ``(R,)``: Of y.
    """

    case_id: str
    products: npt.NDArray[np.float64]
    overlaps: npt.NDArray[np.float64]
    true: npt.NDArray[np.float64]

    def of(self, members: Sequence[int]) -> CaseSums:
        """As if there were only some of the members."""
        chosen = np.asarray(members)
        return CaseSums(
            self.case_id,
            self.products[:, chosen[:, None], chosen[None, :]],
            self.overlaps[:, chosen],
            self.true,
        )


def sums_of(case_id: str, volumes: MemberVolumes, reference: npt.NDArray[np.bool_]) -> CaseSums:
    """Add up one case, slab by slab.

    Args:
        reference: Shape ``(R, X, Y, Z)`` on the whole grid.
    """
    regions, members = volumes.num_regions, len(volumes)
    products, overlaps = np.zeros((regions, members, members)), np.zeros((regions, members))
    truth = volumes.box.crop(reference)
    for place, block in volumes.blocks():
        for region in range(regions):
            said = block[:, region].reshape(members, -1).astype(np.float64)
            products[region] += said @ said.T
            overlaps[region] += said[:, truth[region, place].ravel()].sum(axis=1)
    true = reference.reshape(regions, -1).sum(axis=1).astype(np.float64)
    return CaseSums(case_id, products, overlaps, true)


def soft_dice(cases: Sequence[CaseSums], weights: Weights) -> Vector:
    """The objective per region ``(R,)`` under weights ``(M, R)``, the mean over cases."""
    return np.array(
        [
            _objective(_stacked(cases, region), weights[:, region])[0]
            for region in range(len(weights.T))
        ]
    )


def fit_weights(cases: Sequence[CaseSums]) -> Weights:
    """The best weights ``(M, R)`` of those cases.

    Raises:
        ValueError: There are no cases.
    """
    if not cases:
        raise ValueError("weights cannot be fitted without cases")
    regions = cases[0].true.size
    return np.stack([_fit(_stacked(cases, region)) for region in range(regions)], axis=1)


def groups_of(
    patients: Mapping[str, str], seed: int, num_groups: int = NUM_GROUPS
) -> dict[str, int]:
    """The group of every case, all cases of a patient in one.

    Args:
        patients: Case to patient.

    Raises:
        ValueError: Fewer than two patients.
    """
    names = sorted(set(patients.values()))
    if len(names) < 2:
        raise ValueError("cross-fitting needs two patients or more")
    order = np.random.default_rng(seed).permutation(len(names))
    parts = np.array_split(order, min(num_groups, len(names)))
    group = {names[i]: number for number, part in enumerate(parts) for i in part}
    return {case: group[patient] for case, patient in patients.items()}


def cross_fit(cases: Sequence[CaseSums], groups: Mapping[str, int]) -> dict[int, Weights]:
    """For every group the weights fitted on the cases of all others."""
    return {
        group: fit_weights([case for case in cases if groups[case.case_id] != group])
        for group in sorted(set(groups.values()))
    }


@dataclass(frozen=True)
class _Sums:
    """One region's sums over several cases: ``(N, M, M)``, ``(N, M)``, ``(N,)``."""

    products: npt.NDArray[np.float64]
    overlaps: npt.NDArray[np.float64]
    true: npt.NDArray[np.float64]


def _stacked(cases: Sequence[CaseSums], region: int) -> _Sums:
    return _Sums(
        np.stack([case.products[region] for case in cases]),
        np.stack([case.overlaps[region] for case in cases]),
        np.array([case.true[region] for case in cases]),
    )


def _objective(sums: _Sums, weights: Vector) -> tuple[float, Vector]:
    """Mean soft Dice and its gradient."""
    weighted = sums.products @ weights
    above = 2 * sums.overlaps @ weights + 1
    below = weighted @ weights + sums.true + 1
    gradient = 2 * (sums.overlaps - weighted * (above / below)[:, None]) / below[:, None]
    return float((above / below).mean()), gradient.mean(axis=0)


def _fit(sums: _Sums) -> Vector:
    members = sums.overlaps.shape[1]
    equal = np.full(members, 1 / members)
    if members == 1:
        return equal
    best, reached = equal, _objective(sums, equal)[0]
    near = START_SHARE * np.eye(members) + (1 - START_SHARE) * equal
    for start in (equal, *near):
        found = minimize(
            lambda w: tuple(-np.asarray(part) for part in _objective(sums, w)),
            start,
            jac=True,
            method="SLSQP",
            bounds=[(0, 1)] * members,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            options={"maxiter": 200, "ftol": 1e-10},
        )
        weights = np.clip(found.x, 0, None)
        if not np.isfinite(weights).all() or weights.sum() <= 0:
            continue
        weights = weights / weights.sum()
        value = _objective(sums, weights)[0]
        if value > reached + LEAST_GAIN:
            best, reached = weights, value
    return best
