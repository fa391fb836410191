"""Fitting weights: the sums, the objective, the optimum, and who is left out of whose fit."""

from __future__ import annotations

import numpy as np
import pytest

from bratsml.ensembling.fit import (
    CaseSums,
    cross_fit,
    fit_weights,
    groups_of,
    soft_dice,
    sums_of,
)
from bratsml.ensembling.volumes import MemberVolumes

SHAPE = (5, 4, 3)


def case(seed: int, noise: tuple[float, ...], name: str = "") -> tuple[CaseSums, list, np.ndarray]:
    """A random reference of two regions and members that see it through noise."""
    rng = np.random.default_rng(seed)
    truth = rng.random((2, *SHAPE)) < 0.4
    members = [
        np.clip(truth + rng.normal(0, spread, truth.shape), 0, 1).astype(np.float32)
        for spread in noise
    ]
    with MemberVolumes(2, SHAPE, slab_values=50) as volumes:
        for member in members:
            volumes.add(member)
        return sums_of(name or f"case{seed}", volumes, truth), members, truth


def dense_soft_dice(members: list, truth: np.ndarray, weights: np.ndarray) -> list[float]:
    """From the voxels themselves."""
    found = []
    for region in range(2):
        p = sum(
            w * m[region].astype(float) for w, m in zip(weights[:, region], members, strict=True)
        )
        y = truth[region]
        found.append((2 * (p * y).sum() + 1) / ((p**2).sum() + y.sum() + 1))
    return found


def test_sums_give_the_soft_dice_of_the_voxels() -> None:
    weights = np.array([[0.2, 0.6], [0.8, 0.4]])
    cases = [case(seed, (0.3, 0.5)) for seed in range(3)]
    expected = np.mean([dense_soft_dice(m, t, weights) for _, m, t in cases], axis=0)
    assert soft_dice([s for s, _, _ in cases], weights) == pytest.approx(expected)


def test_reference_outside_the_box_of_the_members_counts() -> None:
    truth = np.zeros((1, *SHAPE), dtype=bool)
    truth[0, 4] = True
    with MemberVolumes(1, SHAPE) as volumes:
        member = np.zeros((1, *SHAPE), dtype=np.float32)
        member[0, 0, 0, 0] = 1
        volumes.add(member)
        sums = sums_of("a", volumes, truth)
    assert (sums.true[0], sums.overlaps[0, 0], sums.products[0, 0, 0]) == (12, 0, 1)


def test_the_optimum_is_that_of_a_grid_search() -> None:
    cases = [case(seed, (0.3, 0.5, 0.6)) for seed in range(4)]
    sums = [s for s, _, _ in cases]
    fitted = fit_weights(sums)
    assert fitted.shape == (3, 2)
    assert fitted.sum(axis=0) == pytest.approx([1, 1])
    assert (fitted >= 0).all()
    steps = np.linspace(0, 1, 26)
    grid = [(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-12]
    for region in range(2):
        values = [soft_dice(sums, np.tile(np.array(w)[:, None], 2))[region] for w in grid]
        assert soft_dice(sums, fitted)[region] >= max(values) - 1e-9
        np.testing.assert_allclose(fitted[:, region], grid[int(np.argmax(values))], atol=0.05)


def test_by_hand_a_member_that_is_the_truth_takes_all_and_equals_share() -> None:
    perfect = CaseSums(
        "a", np.array([[[4.0, 2.0], [2.0, 4.0]]]), np.array([[4.0, 2.0]]), np.array([4.0])
    )
    assert fit_weights([perfect]).ravel().tolist() == pytest.approx([1, 0], abs=1e-4)
    same = CaseSums("a", np.full((1, 2, 2), 4.0), np.full((1, 2), 3.0), np.array([4.0]))
    assert fit_weights([same]).ravel().tolist() == [0.5, 0.5]


def test_a_case_without_the_region_prefers_who_makes_up_less() -> None:
    sums = CaseSums("a", np.array([[[9.0, 0.0], [0.0, 1.0]]]), np.zeros((1, 2)), np.zeros(1))
    # least w'Gw: 9 w = 1 - w
    assert fit_weights([sums]).ravel().tolist() == pytest.approx([0.1, 0.9], abs=1e-3)


def test_some_of_the_members() -> None:
    sums, members, truth = case(0, (0.2, 0.4, 0.6))
    equal = np.full((2, 2), 0.5)
    expected = dense_soft_dice([members[2], members[0]], truth, equal)
    assert soft_dice([sums.of((2, 0))], equal) == pytest.approx(expected)


def test_patients_stay_together_and_the_seed_decides() -> None:
    patients = {f"p{i}-{visit}": f"p{i}" for i in range(12) for visit in range(2)}
    groups = groups_of(patients, seed=0)
    assert set(groups.values()) == set(range(5))
    for i in range(12):
        assert groups[f"p{i}-0"] == groups[f"p{i}-1"]
    assert groups == groups_of(patients, seed=0)
    assert groups != groups_of(patients, seed=1)
    assert len(set(groups_of({"a": "a", "b": "b"}, 0).values())) == 2
    with pytest.raises(ValueError, match="two patients"):
        groups_of({"a": "p", "b": "p"}, seed=0)


def test_the_weights_of_a_group_do_not_depend_on_its_cases() -> None:
    cases = [case(seed, (0.3, 0.5))[0] for seed in range(6)]
    groups = {c.case_id: i % 3 for i, c in enumerate(cases)}
    before = cross_fit(cases, groups)
    cases[0] = case(99, (0.6, 0.1), name=cases[0].case_id)[0]
    after = cross_fit(cases, groups)
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.allclose(before[1], after[1])
    np.testing.assert_array_equal(
        before[1], fit_weights([case(i, (0.3, 0.5))[0] for i in (0, 2, 3, 5)])
    )


def test_no_cases() -> None:
    with pytest.raises(ValueError, match="without cases"):
        fit_weights([])
