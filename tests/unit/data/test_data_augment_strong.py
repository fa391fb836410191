"""The steps of nnU-Net's strength, against SciPy, NumPy and values worked out by hand."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from bratsml.config import Config, build_config
from bratsml.data.augment import (
    AugmentStep,
    Contrast,
    Flip,
    Gamma,
    GaussianBlur,
    GaussianNoise,
    LowResolution,
    RotateScale,
    ScaleIntensity,
    WithinBrain,
    apply_changes,
    augment,
    draw_changes,
)
from bratsml.errors import ConfigError

SHAPE = (9, 8, 7)


def image_of(shape: tuple[int, int, int] = SHAPE, modalities: int = 4) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((modalities, *shape)).astype(np.float32)


def after(step: Any, image: np.ndarray, seed: int = 0) -> np.ndarray:
    changed = image.copy()
    augment(changed, np.zeros(image.shape[1:], np.uint8), [step], np.random.default_rng(seed))
    return changed


class TestBlur:
    @pytest.mark.parametrize("shape", [SHAPE, (3, 12, 1)])
    def test_is_scipys_gaussian_filter(self, shape: tuple[int, int, int]) -> None:
        step = GaussianBlur(probability=1, modality_probability=1, sigma=(0.5, 1.5))
        image = image_of(shape)
        (change,) = draw_changes([step], image.shape, np.random.default_rng(0))
        assert len(set(np.ravel(change.sigmas))) == 12  # one for each modality and axis
        blurred = after(step, image)
        for ours, theirs, sigmas in zip(blurred, image, change.sigmas, strict=True):
            expected = ndimage.gaussian_filter(theirs, sigmas)
            np.testing.assert_allclose(ours, expected, atol=1e-5)

    def test_takes_half_of_the_modalities(self) -> None:
        step = GaussianBlur(probability=1)
        image = image_of((3, 3, 3))
        changed = [(after(step, image, s) != image).any(axis=(1, 2, 3)) for s in range(300)]
        assert 0.45 < np.mean(changed) < 0.55
        assert len({tuple(row) for row in changed}) == 16  # each for itself


class TestLowResolution:
    def test_of_half_the_side_is_every_other_voxel_joined_by_lines(self) -> None:
        step = LowResolution(probability=1, modality_probability=1, factor=(0.5, 0.5))
        image = np.zeros((1, 8, 8, 8), np.float32)
        image[0] = np.arange(8)[:, None, None] ** 2
        # the nearest to the middles of pairs (0.5, 2.5, ...) are voxels 1, 3, 5, 7; they stand at
        # those middles, so 1/4 and 3/4 of the way between them is what is seen again
        line = [1, 3, 7, 13, 21, 31, 43, 49]
        expected = np.broadcast_to(np.array(line, np.float32)[:, None, None], (8, 8, 8))
        np.testing.assert_allclose(after(step, image)[0], expected)

    def test_of_the_whole_side_changes_nothing(self) -> None:
        step = LowResolution(probability=1, modality_probability=1, factor=(1, 1))
        np.testing.assert_allclose(after(step, image_of()), image_of(), atol=1e-6)

    def test_a_thin_patch_stays_thin(self) -> None:
        step = LowResolution(probability=1, modality_probability=1, factor=(0.5, 0.5))
        assert after(step, image_of((8, 8, 1))).shape == (4, 8, 8, 1)


class TestTurnAndZoom:
    def test_come_independently(self) -> None:
        step = RotateScale(probability=0.2, scale_probability=0.3)
        form = (4, *SHAPE)
        turned = zoomed = both = 0
        for seed in range(4000):
            change = step.draw(form, np.random.default_rng(seed))
            if change is None:
                continue
            matrix = np.array(change.matrix)
            factor = np.linalg.det(matrix) ** (-1 / 3)
            has_turned = not np.allclose(matrix, np.eye(3) / factor)
            turned, zoomed = turned + has_turned, zoomed + (abs(factor - 1) > 1e-9)
            both += has_turned and abs(factor - 1) > 1e-9
        assert abs(turned / 4000 - 0.2) < 0.03
        assert abs(zoomed / 4000 - 0.3) < 0.03
        assert abs(both / 4000 - 0.06) < 0.015

    def test_a_thin_patch_is_turned_within_its_plane(self) -> None:
        step = RotateScale(probability=1, degrees=30, factor=(1, 1))
        for seed in range(20):
            change = step.draw((4, 16, 16, 1), np.random.default_rng(seed))
            assert change is not None
            np.testing.assert_allclose(np.array(change.matrix)[2], [0, 0, 1], atol=1e-12)
            assert abs(np.arctan2(change.matrix[1][0], change.matrix[0][0])) <= np.pi / 6

    def test_a_thin_label_map_is_not_lost(self) -> None:
        image, label = np.ones((4, 16, 16, 1), np.float32), np.ones((16, 16, 1), np.uint8)
        step = RotateScale(probability=1, degrees=30, factor=(0.7, 1.4))
        augment(image, label, [step], np.random.default_rng(0))
        assert label[4:12, 4:12].all()
        np.testing.assert_allclose(image[:, 4:12, 4:12], 1, atol=1e-5)

    def test_what_comes_from_outside_is_zero(self) -> None:
        image, label = np.ones((1, 8, 8, 8), np.float32), np.ones((8, 8, 8), np.uint8)
        augment(
            image, label, [RotateScale(probability=1, degrees=0, factor=(0.5, 0.5))],
            np.random.default_rng(0),
        )  # fmt: skip
        assert label.sum() == 4**3
        assert (image[0, 0], label[0].max()) == (pytest.approx(0), 0)


class TestIntensity:
    def test_noise_is_as_strong_as_drawn_and_the_same_for_all_modalities(self) -> None:
        step = GaussianNoise(probability=1, std=(0.0, 0.1))
        stds = []
        for seed in range(40):
            noise = after(step, np.zeros((4, 12, 12, 12), np.float32), seed)
            by_modality = noise.std(axis=(1, 2, 3))
            assert np.ptp(by_modality) < 0.15 * by_modality.mean()
            stds.append(by_modality.mean())
        assert max(stds) < 0.11
        assert 0.03 < np.mean(stds) < 0.07

    def test_two_sided_factors_lie_above_and_below_1_equally_often(self) -> None:
        step = ScaleIntensity(probability=1, factor=(0.9, 3), two_sided=True)
        ones = np.ones((4, 1, 1, 1), np.float32)
        factors = np.array([after(step, ones, seed).ravel() for seed in range(300)])
        assert factors.min() >= 0.9
        assert factors.max() <= 3
        assert 0.45 < (factors < 1).mean() < 0.55
        assert abs(factors[factors > 1].mean() - 2) < 0.1

    @pytest.mark.parametrize("inverted", [False, True])
    def test_gamma_as_batchgenerators_has_it(self, inverted: bool) -> None:
        step = Gamma(probability=1, exponent=(0.7, 1.5), inverted=inverted, keep_mean_and_std=True)
        image = image_of()
        (change,) = draw_changes([step], image.shape, np.random.default_rng(4))
        for ours, theirs, power in zip(after(step, image, 4), image, change.values, strict=True):
            x = -theirs.astype(np.float64) if inverted else theirs.astype(np.float64)
            mean, std, low, extent = x.mean(), x.std(), x.min(), np.ptp(x)
            x = ((x - low) / extent) ** power * extent + low
            x = (x - x.mean()) / x.std() * std + mean
            np.testing.assert_allclose(ours, -x if inverted else x, atol=1e-4)

    def test_gamma_leaves_a_constant_modality_alone(self) -> None:
        step = Gamma(probability=1, inverted=True, keep_mean_and_std=True)
        flat = np.full((4, 3, 3, 3), 2.5, np.float32)
        np.testing.assert_allclose(after(step, flat), flat)

    def test_within_the_brain_the_outside_stays_zero(self) -> None:
        image = image_of()
        image[:, :3] = 0
        image[1, 5] = 0  # one modality may be 0 inside
        steps = (
            GaussianNoise(probability=1),
            GaussianBlur(probability=1, modality_probability=1),
            Contrast(probability=1),
            Gamma(probability=1, inverted=True),
        )
        changed = after(WithinBrain(steps=steps), image)
        assert not changed[:, :3].any()
        assert (changed[:, 3:] != 0).all()

    def test_within_the_brain_may_have_nothing_to_do(self) -> None:
        step = WithinBrain(steps=(GaussianNoise(probability=0),))
        assert step.draw((4, 3, 3, 3), np.random.default_rng(0)) is None


class TestDrawnFirst:
    STEPS = (
        RotateScale(probability=1, scale_probability=1, degrees=30, factor=(0.7, 1.4)),
        Flip(probability=1),
        WithinBrain(
            steps=(
                GaussianNoise(probability=1, std=(0.0, 0.1)),
                GaussianBlur(probability=1),
                ScaleIntensity(probability=1, two_sided=True),
                Contrast(probability=1),
                LowResolution(probability=1),
                Gamma(probability=1, inverted=True, keep_mean_and_std=True),
            )
        ),
    )

    def test_applied_later_elsewhere_it_is_the_same_bit_for_bit(self) -> None:
        image, label = image_of((16, 16, 16)), np.ones((16, 16, 16), np.uint8)
        changes = draw_changes(self.STEPS, image.shape, np.random.default_rng(7))
        sent = pickle.loads(pickle.dumps(changes))
        later, later_label = torch.from_numpy(image.copy()), torch.from_numpy(label.copy())
        apply_changes(later, later_label, sent)
        augment(image, label, self.STEPS, np.random.default_rng(7))
        np.testing.assert_array_equal(image, later.numpy())
        np.testing.assert_array_equal(label, later_label.numpy())

    def test_threads_do_not_matter(self) -> None:
        results = []
        before = torch.get_num_threads()
        try:
            for threads in (1, 3):
                torch.set_num_threads(threads)
                image = image_of((48, 48, 48))
                label = np.ones((48, 48, 48), np.uint8)
                augment(image, label, self.STEPS, np.random.default_rng(7))
                results.append(image)
                assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        np.testing.assert_array_equal(*results)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_a_gpu_rounds_differently_and_no_more(self) -> None:
        image, label = image_of((32, 32, 32)), np.ones((32, 32, 32), np.uint8)
        label[:16] = 4
        changes = draw_changes(self.STEPS, image.shape, np.random.default_rng(7))
        there, there_label = torch.from_numpy(image).cuda(), torch.from_numpy(label).cuda()
        apply_changes(there, there_label, changes)
        apply_changes(torch.from_numpy(image), torch.from_numpy(label), changes)
        np.testing.assert_allclose(there.cpu().numpy(), image, atol=1e-3)
        assert (there_label.cpu().numpy() != label).mean() < 1e-3


class Holder(Config):
    steps: tuple[AugmentStep, ...]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"kind": "gaussian_noise", "std": [0.2, 0.1]}, "the lower limit comes first"),
        ({"kind": "gaussian_blur", "sigma": [0, 1]}, "both limits must be above 0"),
        ({"kind": "low_resolution", "factor": [0.5, 2]}, "at most 1"),
        ({"kind": "within_brain", "steps": []}, "at least 1 item"),
        ({"kind": "within_brain", "steps": [{"kind": "flip"}]}, "does not match any"),
        ({"kind": "gamma", "modality_probability": 2}, "less than or equal to 1"),
    ],
)
def test_wrong_steps_are_refused(step: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(Holder, {"steps": [step]})
