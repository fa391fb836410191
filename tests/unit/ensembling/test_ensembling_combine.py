"""Combinations by hand, on a grid of which only a part is kept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from bratsml.ensembling.combine import COMBINATIONS, combine
from bratsml.ensembling.staple import count_patterns, patterns_of, staple
from bratsml.ensembling.volumes import MemberVolumes

SHAPE = (4, 3, 3)
PLACE = (1, 1, 1)


@pytest.fixture
def volumes() -> Iterator[MemberVolumes]:
    """Three members and two regions, with one voxel that any member sees."""
    with MemberVolumes(2, SHAPE) as found:
        for first, second in ((0.5, 0.2), (0.8, 0.2), (0.8, 0.8)):
            member = np.zeros((2, *SHAPE), dtype=np.float32)
            member[(slice(None), *PLACE)] = first, second
            found.add(member)
        yield found


def at(combined: np.ndarray) -> list[float]:
    return [float(v) for v in combined[:, 0, 0, 0]]


def test_mean_of_probabilities(volumes: MemberVolumes) -> None:
    assert at(combine(volumes, "probabilities")) == pytest.approx([0.7, 0.4])
    assert at(combine(volumes, "probabilities", (0, 2))) == pytest.approx([0.65, 0.5])


def test_mean_of_logits(volumes: MemberVolumes) -> None:
    # logit(.5) = 0 and logit(.8) = ln 4: sigmoid(ln 2) = 2/3; -ln 4 and ln 4 cancel
    assert at(combine(volumes, "logits", (0, 1))) == pytest.approx([2 / 3, 0.2])
    assert at(combine(volumes, "logits", (1, 2))) == pytest.approx([0.8, 0.5])


def test_one_weight_per_member_and_region_whatever_they_sum_to(volumes: MemberVolumes) -> None:
    weights = np.array([[3.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
    # (3 * .5 + .8) / 4 and (.2 + 3 * .8) / 4
    assert at(combine(volumes, "fitted", weights=weights)) == pytest.approx([0.575, 0.65])
    assert at(combine(volumes, "fitted", (2, 0), weights[[2, 0]])) == pytest.approx([0.5, 0.8])
    for wrong in (None, weights[:2]):
        with pytest.raises(ValueError, match="one weight per member and region"):
            combine(volumes, "fitted", weights=wrong)


def test_staple_of_the_masks_above_one_half_over_the_whole_grid() -> None:
    shape = (10, 10, 10)
    truth = np.zeros(shape, dtype=bool)
    truth[2:8, 2:8, 2:8] = True
    rng = np.random.default_rng(0)
    members = [truth ^ (rng.random(shape) < share) for share in (0.01, 0.02, 0.3)]
    members[2][:, :, 8:] = False
    with MemberVolumes(1, shape, slab_values=500) as volumes:
        for mask in members:
            volumes.add(np.where(mask, 0.51, 0.0)[None].astype(np.float32))
        found = volumes.paste(combine(volumes, "staple"))[0] > 0.5
    wrong = [(mask != truth).sum() for mask in (*members, found)]
    assert wrong[3] < min(wrong[:3])


def test_voxels_that_no_member_sees_count_for_staple() -> None:
    masks = np.zeros((3, 9, 9, 9), dtype=bool)
    masks[:, 3:6, 3:6, 3:6] = np.random.default_rng(4).random((3, 3, 3, 3)) < 0.6
    codes = patterns_of(masks)
    whole = staple(count_patterns([codes]), 3)
    seen = staple(count_patterns([codes[3:6, 3:6, 3:6]]), 3)
    assert not np.allclose(whole.of(np.arange(8)), seen.of(np.arange(8)), atol=0.01)
    with MemberVolumes(1, (9, 9, 9)) as volumes:
        for mask in masks:
            volumes.add(mask[None].astype(np.float32))
        found = volumes.paste(combine(volumes, "staple"))[0]
    inside = codes > 0
    np.testing.assert_allclose(found[inside], whole.of(codes)[inside], atol=1e-6)


@pytest.mark.parametrize("kind", COMBINATIONS)
def test_equal_members_give_the_mask_of_one(kind) -> None:
    rng = np.random.default_rng(1)
    one = rng.random((2, *SHAPE)).astype(np.float32)
    weights = np.array([[0.3, 0.5], [0.7, 0.5]])
    with MemberVolumes(2, SHAPE) as volumes:
        volumes.add(one)
        volumes.add(one)
        combined = volumes.paste(combine(volumes, kind, weights=weights))
    assert ((combined > 0.5) == (one > 0.5)).all()
    if kind != "staple":
        np.testing.assert_allclose(combined, np.clip(one, 1 / 510, 1 - 1 / 510), atol=2e-3)


def test_nothing_to_combine(volumes: MemberVolumes) -> None:
    with pytest.raises(ValueError, match="nothing to combine"):
        combine(volumes, "probabilities", ())
