"""Every augmentation: what it may change, how often, and that chance comes from the generator."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from bratsml.config import Config, build_config, with_overrides
from bratsml.data.augment import (
    DEFAULT_AUGMENT,
    AugmentStep,
    BiasField,
    Contrast,
    Flip,
    Gamma,
    GaussianBlur,
    GaussianNoise,
    LowResolution,
    ModalityDropout,
    Rotate90,
    RotateScale,
    ScaleIntensity,
    ShiftIntensity,
    augment,
)
from bratsml.errors import ConfigError

SHAPE = (6, 5, 4)
ALWAYS: list[Any] = [
    Flip(probability=1),
    Rotate90(probability=1),
    GaussianNoise(probability=1),
    ScaleIntensity(probability=1),
    ShiftIntensity(probability=1),
    Contrast(probability=1),
    Gamma(probability=1),
    BiasField(probability=1),
    RotateScale(probability=1),
    ModalityDropout(probability=1),
    GaussianNoise(probability=1, std=(0.05, 0.1)),
    ScaleIntensity(probability=1, two_sided=True),
    Gamma(probability=1, inverted=True, keep_mean_and_std=True, two_sided=True),
    GaussianBlur(probability=1, modality_probability=1),
    LowResolution(probability=1, modality_probability=1, factor=(0.5, 0.6)),
]
MOVING = ("flip", "rotate90", "rotate_scale")
GEOMETRIC = [Flip(probability=1), Rotate90(probability=1)]
ids = lambda step: step.kind if isinstance(step, Config) else None  # noqa: E731


def patch(shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, shape).astype(np.uint8)
    image = rng.standard_normal((4, *shape)).astype(np.float32)
    image[:, label == 0] = 0
    return image, label


def apply(step: Any, seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> tuple[Any, Any]:
    image, label = patch(shape)
    augment(image, label, [step], np.random.default_rng(seed))
    return image, label


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("step", ALWAYS, ids=ids)
class TestEveryStep:
    def test_changes_the_patch_and_keeps_its_form(self, step: Any) -> None:
        image, label = apply(step)
        assert image.shape == (4, *SHAPE)
        assert image.dtype == np.float32
        assert label.dtype == np.uint8
        assert np.isfinite(image).all()
        assert not np.array_equal(image, patch()[0])
        assert set(np.unique(label)) <= {0, 1, 2, 3}

    def test_does_the_same_with_the_same_generator(self, step: Any) -> None:
        for a, b in zip(apply(step, 3), apply(step, 3), strict=True):
            assert np.array_equal(a, b)

    def test_does_nothing_at_probability_0(self, step: Any) -> None:
        image, label = apply(with_overrides(step, {"probability": 0}))
        assert np.array_equal(image, patch()[0])
        assert np.array_equal(label, patch()[1])

    def test_comes_back_from_its_tree(self, step: Any) -> None:
        assert build_config(Holder, {"steps": [step.tree()]}).steps == (step,)


class Holder(Config):
    steps: tuple[AugmentStep, ...] = ()


@pytest.mark.parametrize("step", GEOMETRIC, ids=ids)
@pytest.mark.parametrize("seed", range(6))
def test_image_and_label_move_together(step: Any, seed: int) -> None:
    label = np.arange(6 * 5 * 5, dtype=np.uint8).reshape(6, 5, 5)
    image = np.stack([label.astype(np.float32)] * 4)
    augment(image, label, [step], np.random.default_rng(seed))
    assert np.array_equal(image, np.stack([label.astype(np.float32)] * 4))
    assert sorted(label.ravel()) == list(range(150))


@pytest.mark.parametrize("step", ALWAYS[1:], ids=ids)  # a flip of every axis is always the same
def test_another_generator_gives_another_patch(step: Any) -> None:
    assert any(not np.array_equal(apply(step, 0)[0], apply(step, n)[0]) for n in range(1, 6))


@pytest.mark.parametrize("step", [step for step in ALWAYS if step.kind not in MOVING], ids=ids)
def test_intensity_steps_leave_the_label_alone(step: Any) -> None:
    assert np.array_equal(apply(step)[1], patch()[1])


class TestFlip:
    def test_mirrors_the_chosen_axis(self) -> None:
        image, label = apply(Flip(probability=1, axes=(1,)))
        assert np.array_equal(image, patch()[0][:, :, ::-1])
        assert np.array_equal(label, patch()[1][:, ::-1])

    def test_mirrors_each_axis_half_of_the_time(self) -> None:
        before = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
        firsts = []
        for seed in range(400):
            image, label = np.zeros((4, 2, 2, 2), np.float32), before.copy()
            augment(image, label, [Flip()], np.random.default_rng(seed))
            firsts.append(int(label[0, 0, 0]))  # 4, 2 and 1 tell the axes mirrored
        for bit in (4, 2, 1):
            # 200 in expectation, standard deviation 10
            assert 150 < sum(bool(first & bit) for first in firsts) < 250


class TestRotate90:
    def test_on_a_cube_gives_every_right_angled_turn_of_three_planes(self) -> None:
        before = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
        possible = {
            np.rot90(before, k, plane).tobytes()
            for plane in ((0, 1), (0, 2), (1, 2))
            for k in (1, 2, 3)
        }
        seen = set()
        for seed in range(200):
            label = before.copy()
            step = Rotate90(probability=1)
            augment(np.zeros((4, 3, 3, 3), np.float32), label, [step], np.random.default_rng(seed))
            seen.add(label.tobytes())
        assert seen == possible

    def test_on_unequal_sides_turns_half_way_round(self) -> None:
        before = patch((4, 5, 6))[1]
        possible = {np.flip(before, axes).tobytes() for axes in ((0, 1), (0, 2), (1, 2))}
        assert {
            apply(Rotate90(probability=1), s, (4, 5, 6))[1].tobytes() for s in range(40)
        } == possible


class TestGaussianNoise:
    def test_has_the_asked_spread(self) -> None:
        image, label = np.zeros((4, 20, 20, 20), np.float32), np.zeros((20, 20, 20), np.uint8)
        augment(image, label, [GaussianNoise(probability=1, std=0.1)], np.random.default_rng(0))
        # 32,000 draws: standard error of the mean 0.0006, of the spread 0.0004
        assert abs(image.mean()) < 0.003
        assert image.std() == pytest.approx(0.1, abs=0.002)

    def test_comes_as_often_as_asked(self) -> None:
        changed = sum(
            not np.array_equal(apply(GaussianNoise(), s)[0], patch()[0]) for s in range(400)
        )
        assert 50 < changed < 110  # 80 in expectation, standard deviation 8


class TestIntensitySteps:
    def test_scale_multiplies_each_modality_by_its_own_factor(self) -> None:
        image, _ = apply(ScaleIntensity(probability=1, factor=(0.5, 2.0)))
        before, inside = patch()[0], patch()[1] > 0
        ratios = image[:, inside] / before[:, inside]
        assert np.allclose(ratios, ratios[:, :1])
        assert len(set(ratios[:, 0].round(4))) == 4
        assert ((ratios >= 0.5) & (ratios <= 2)).all()

    def test_shift_leaves_the_outside_of_the_brain_at_zero(self) -> None:
        image, label = apply(ShiftIntensity(probability=1, offset=(0.3, 0.4)))
        shift = image - patch()[0]
        assert not shift[:, label == 0].any()
        inside = shift[:, label > 0]
        assert np.allclose(inside, inside[:, :1], atol=1e-6)
        assert ((inside > 0.299) & (inside < 0.401)).all()

    def test_gamma_keeps_range_and_order(self) -> None:
        image, _ = apply(Gamma(probability=1, exponent=(1.5, 1.5)))
        before = patch()[0]
        low, high = before.min((1, 2, 3), keepdims=True), before.max((1, 2, 3), keepdims=True)
        expected = ((before - low) / (high - low)) ** 1.5 * (high - low) + low
        assert np.allclose(image, expected, atol=1e-5)

    def test_gamma_leaves_a_constant_modality_alone(self) -> None:
        image, label = np.full((4, 3, 3, 3), 2, np.float32), np.zeros((3, 3, 3), np.uint8)
        augment(image, label, [Gamma(probability=1)], np.random.default_rng(0))
        assert (image == 2).all()

    def test_contrast_stretches_about_the_mean_within_the_range(self) -> None:
        image, _ = apply(Contrast(probability=1, factor=(1.5, 1.5)))
        before = patch()[0]
        axes = (1, 2, 3)
        mean = before.mean(axes, keepdims=True)
        expected = np.clip(
            (before - mean) * 1.5 + mean,
            before.min(axes, keepdims=True),
            before.max(axes, keepdims=True),
        )
        assert np.allclose(image, expected, atol=1e-5)


class TestBiasField:
    def test_of_two_knots_is_straight_along_every_axis(self) -> None:
        image = np.ones((4, 7, 6, 5), np.float32)
        augment(image, np.zeros((7, 6, 5), np.uint8), [BiasField(probability=1, knots=2)], rng())
        for axis in (1, 2, 3):
            np.testing.assert_allclose(np.diff(image, n=2, axis=axis), 0, atol=1e-6)
            assert np.abs(np.diff(image, axis=axis)).max() > 1e-3

    def test_stays_within_its_strength_and_outside_the_brain_zero(self) -> None:
        before, label = patch((9, 9, 9))
        image = before.copy()
        augment(image, label, [BiasField(probability=1, strength=0.2)], rng())
        assert 0 < np.abs(image - before).max() <= 0.2 + 1e-6
        np.testing.assert_array_equal(image[before == 0], 0)

    def test_differs_by_modality(self) -> None:
        image = np.ones((4, 5, 5, 5), np.float32)
        augment(image, np.zeros((5, 5, 5), np.uint8), [BiasField(probability=1)], rng())
        assert len({float(modality[0, 0, 0]) for modality in image}) == 4


class TestRotateScale:
    def test_without_turn_and_zoom_changes_nothing(self) -> None:
        image, label = apply(RotateScale(probability=1, degrees=0, factor=(1, 1)))
        assert np.allclose(image, patch()[0], atol=1e-5)
        assert np.array_equal(label, patch()[1])

    def test_zoom_makes_the_middle_larger(self) -> None:
        label = np.zeros((20, 20, 20), np.uint8)
        label[8:12, 8:12, 8:12] = 1
        step = RotateScale(probability=1, degrees=0, factor=(2, 2))
        augment(np.zeros((4, 20, 20, 20), np.float32), label, [step], np.random.default_rng(0))
        assert label.sum() == 8**3  # 4 voxels a side become 8
        assert label[6:14, 6:14, 6:14].all()

    @pytest.mark.parametrize("shape", [(9, 9, 9), (8, 11, 6)])
    def test_agrees_with_scipy(self, shape: tuple[int, int, int]) -> None:
        step = RotateScale(probability=1, degrees=20, factor=(0.9, 1.1))
        before, _ = patch(shape)
        image, _ = apply(step, seed=5, shape=shape)
        rng = np.random.default_rng(5)
        rng.random()
        x, y, z = rng.uniform(-20, 20, 3)
        from scipy.spatial.transform import Rotation

        matrix = Rotation.from_euler("xyz", (x, y, z), degrees=True).as_matrix()
        matrix = matrix / rng.uniform(0.9, 1.1)
        centre = (np.array(shape) - 1) / 2
        expected = [
            ndimage.affine_transform(
                c, matrix, centre - matrix @ centre, order=1, mode="grid-constant"
            )
            for c in before
        ]
        assert np.allclose(image, expected, atol=1e-4)

    def test_label_values_are_not_blended(self) -> None:
        label = np.zeros((12, 12, 12), np.uint8)
        label[:6] = 4
        augment(
            np.zeros((4, 12, 12, 12), np.float32),
            label,
            [RotateScale(probability=1, degrees=30)],
            np.random.default_rng(0),
        )
        assert set(np.unique(label)) == {0, 4}


class TestModalityDropout:
    def left(self, probability: float, seed: int) -> tuple[bool, ...]:
        image, _ = apply(ModalityDropout(probability=probability), seed)
        whole = patch()[0]
        for ours, theirs in zip(image, whole, strict=True):
            assert np.array_equal(ours, theirs) or not ours.any()
        return tuple(bool(modality.any()) for modality in image)

    def test_takes_whole_modalities_and_leaves_the_others(self) -> None:
        assert {self.left(0.5, seed) for seed in range(200)} == {
            subset for subset in itertools.product((False, True), repeat=4) if any(subset)
        }

    def test_comes_as_often_as_asked(self) -> None:
        # the one modality kept in 0.3**4 of the patches lowers the share by 0.002 only
        share = 1 - np.mean([self.left(0.3, seed) for seed in range(1000)], axis=0)
        assert np.allclose(share, 0.3, atol=0.05)

    def test_at_probability_1_every_modality_is_the_one_left(self) -> None:
        left = [self.left(1, seed) for seed in range(40)]
        assert {sum(subset) for subset in left} == {1}
        assert len(set(left)) == 4

    def test_a_mirrored_patch_keeps_the_dropout(self) -> None:
        image, label = patch()
        augment(image, label, [Flip(probability=1), ModalityDropout(probability=1)], rng())
        assert sum(bool(modality.any()) for modality in image) == 1


class TestList:
    def test_steps_apply_in_order(self) -> None:
        steps = [Rotate90(probability=1), ScaleIntensity(probability=1), Flip(probability=1)]
        image, label = patch((4, 4, 4))
        augment(image, label, steps, np.random.default_rng(1))
        rng = np.random.default_rng(1)
        expected, labels = patch((4, 4, 4))
        for step in steps:
            expected, labels = step.apply(expected, labels, rng)
        assert np.array_equal(image, expected)
        assert np.array_equal(label, labels)

    def test_an_empty_list_changes_nothing_and_draws_nothing(self) -> None:
        image, label = patch()
        rng = np.random.default_rng(1)
        augment(image, label, [], rng)
        assert np.array_equal(image, patch()[0])
        assert rng.random() == np.random.default_rng(1).random()

    def test_the_default_is_flips_turns_noise_and_slight_intensity(self) -> None:
        assert [step.kind for step in DEFAULT_AUGMENT] == [
            "flip",
            "rotate90",
            "gaussian_noise",
            "scale_intensity",
            "shift_intensity",
        ]

    @pytest.mark.parametrize(
        ("step", "message"),
        [
            ({"kind": "flip", "probability": 1.5}, "less than or equal to 1"),
            ({"kind": "flop"}, "does not match any of the expected tags"),
            ({"kind": "flip", "chance": 1}, "unknown setting"),
            ({"kind": "flip", "axes": [3]}, "0, 1 or 2"),
            ({"kind": "gamma", "exponent": [1.5, 0.7]}, "the lower limit comes first"),
            ({"kind": "scale_intensity", "factor": [0, 1]}, "both limits must be above 0"),
            ({"kind": "gaussian_noise", "std": 0}, "greater than 0"),
        ],
    )
    def test_wrong_steps_are_refused(self, step: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            build_config(Holder, {"steps": [step]})
