"""STAPLE against a voxel-by-voxel implementation that multiplies plain probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from bratsml.ensembling.staple import count_patterns, patterns_of, staple


def voxel_by_voxel(masks: np.ndarray, rounds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equations 15 to 19 of Warfield et al. 2004, for every voxel on its own."""
    members, voxels = masks.shape
    prior = masks.sum() / masks.size
    p, q = [0.99999] * members, [0.99999] * members
    truth = np.zeros(voxels)
    for _ in range(rounds):
        for voxel in range(voxels):
            a, b = prior, 1 - prior
            for member in range(members):
                a *= p[member] if masks[member, voxel] else 1 - p[member]
                b *= 1 - q[member] if masks[member, voxel] else q[member]
            truth[voxel] = a / (a + b)
        p = [float(truth[masks[m]].sum() / truth.sum()) for m in range(members)]
        q = [float((1 - truth)[~masks[m]].sum() / (1 - truth).sum()) for m in range(members)]
    return truth, np.array(p), np.array(q)


def experts(seed: int, members: int, voxels: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """A truth and masks of it that err more and more from member to member."""
    rng = np.random.default_rng(seed)
    truth = rng.random(voxels) < 0.3
    wrong = rng.random((members, voxels)) < np.linspace(0.02, 0.25, members)[:, None]
    return truth, truth ^ wrong


@pytest.mark.parametrize(("seed", "members"), [(0, 2), (1, 3), (2, 5)])
def test_as_voxel_by_voxel(seed: int, members: int) -> None:
    _, masks = experts(seed, members)
    codes = patterns_of(masks)
    found = staple(count_patterns([codes[:150], codes[150:]]), members)
    truth, sensitivity, specificity = voxel_by_voxel(masks, rounds=300)
    np.testing.assert_allclose(found.of(codes), truth, atol=1e-4)
    np.testing.assert_allclose(found.sensitivity, sensitivity, atol=1e-5)
    np.testing.assert_allclose(found.specificity, specificity, atol=1e-5)


def test_tells_good_members_from_poor_ones_and_beats_the_majority() -> None:
    truth, masks = experts(seed=5, members=5, voxels=20_000)
    codes = patterns_of(masks)
    found = staple(count_patterns([codes]), 5)
    np.testing.assert_allclose(found.sensitivity, 1 - np.linspace(0.02, 0.25, 5), atol=0.02)
    np.testing.assert_allclose(found.specificity, 1 - np.linspace(0.02, 0.25, 5), atol=0.02)
    wrong = ((found.of(codes) > 0.5) != truth).mean()
    wrong_majority = ((masks.sum(axis=0) > 2) != truth).mean()
    assert wrong < wrong_majority


def test_patterns_are_bits_of_members() -> None:
    masks = np.array([[True, False, True], [False, False, True], [True, False, True]])
    assert patterns_of(masks).tolist() == [5, 0, 7]
    assert count_patterns([np.array([5, 0]), np.array([0, 7])]) == {5: 1, 0: 2, 7: 1}
    with pytest.raises(ValueError, match="up to 62 members, received 63"):
        patterns_of(np.zeros((63, 1), dtype=bool))


@pytest.mark.parametrize(("pattern", "truth"), [(0, 0.0), (3, 1.0)])
def test_all_or_nothing_stays_what_it_is(pattern: int, truth: float) -> None:
    found = staple({pattern: 100}, 2)
    assert found.of(np.array([pattern])).tolist() == [truth]


def test_members_who_agree_are_believed() -> None:
    found = staple({0: 90, 3: 10}, 2)
    assert found.of(np.array([0, 3])).tolist() == pytest.approx([0.0, 1.0], abs=1e-6)
    assert np.isfinite(found.truth).all()


def test_without_voxels_or_members_there_is_nothing_to_estimate() -> None:
    with pytest.raises(ValueError, match="a member and a voxel"):
        staple({}, 2)
    with pytest.raises(ValueError, match="a member and a voxel"):
        staple({0: 4}, 0)
