"""Batches: what they hold, and that they depend on seed, epoch and position alone."""

from __future__ import annotations

import logging
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from bratsml.config import build_config, with_overrides
from bratsml.data.augment import Flip, GaussianNoise
from bratsml.data.batch import Batch
from bratsml.data.loader import LoaderConfig, PatchLoader, PatchTask, num_workers
from bratsml.errors import ConfigError, DataError, ResourceError

SHAPE = (9, 8, 7)
IDS = ("c0", "c1", "c2", "c3", "c4")
PLAIN = LoaderConfig(patch=(4, 4, 4), augment=(), workers=0)


class FakeStore:
    """Cases on disk without preprocessing; case ``cN`` has the value ``N`` at its only ET voxel.

    Channels 0 to 2 hold each voxel's own coordinates, so a patch tells where it was taken.
    """

    def __init__(self, path: Path, fault: Callable[[str], None] | None = None) -> None:
        self.path, self.fault = path, fault

    @classmethod
    def write(cls, path: Path) -> FakeStore:
        coordinates = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")) + 1
        for number, case_id in enumerate(IDS):
            image = np.concatenate([coordinates, np.full((1, *SHAPE), number)]).astype(np.float16)
            np.save(path / f"{case_id}.image.npy", image)
            label = np.zeros(SHAPE, np.uint8)
            label[4, 4, 3] = 4
            np.save(path / f"{case_id}.label.npy", label)
        return cls(path)

    def meta(self, case_id: str) -> Any:
        if case_id not in IDS:
            raise DataError(case_id, "", "is not in the store", "check the case id")
        voxel = int(np.ravel_multi_index((4, 4, 3), SHAPE))
        foreground = {"ET": [voxel], "TC": [voxel]} if case_id != "c4" else {"ET": [], "TC": []}
        return SimpleNamespace(shape=SHAPE, foreground=foreground, has_label=case_id != "c3")

    def image(self, case_id: str) -> Any:
        if self.fault:
            self.fault(case_id)
        return np.load(self.path / f"{case_id}.image.npy", mmap_mode="r")

    def label(self, case_id: str) -> Any:
        return np.load(self.path / f"{case_id}.label.npy", mmap_mode="r")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return FakeStore.write(tmp_path)


CASES = ("c0", "c1", "c2", "c4")


def loader(store: Any, seed: int = 0, **settings: Any) -> PatchLoader:
    return PatchLoader(store, CASES, with_overrides(PLAIN, settings), seed)


def same(a: Batch, b: Batch) -> bool:
    return (
        torch.equal(a.image, b.image) and torch.equal(a.label, b.label) and a.case_ids == b.case_ids
    )


class TestBatch:
    def test_holds_float_images_and_label_values(self, store: Any) -> None:
        batch = next(loader(store, batch_size=3).epoch(0))
        assert batch.image.shape == (3, 4, 4, 4, 4)
        assert batch.image.dtype == torch.float32
        assert batch.label.shape == (3, 1, 4, 4, 4)
        assert batch.label.dtype == torch.uint8
        assert len(batch.case_ids) == 3

    def test_names_the_case_of_each_patch(self, store: Any) -> None:
        for batch in loader(store, batch_size=2, samples_per_epoch=20).epoch(0):
            assert [f"c{int(v)}" for v in batch.image[:, 3, 0, 0, 0]] == batch.case_ids

    def test_image_and_label_come_from_the_same_place(self, store: Any) -> None:
        steps = [{"kind": "flip"}, {"kind": "rotate90"}]
        for batch in loader(store, samples_per_epoch=40, augment=steps).epoch(0):
            # coordinates are stored plus one, so the ET voxel (4, 4, 3) reads 5, 5, 4
            image = batch.image[0]
            at_tumour = (image[0] == 5) & (image[1] == 5) & (image[2] == 4)
            assert torch.equal(at_tumour, batch.label[0, 0] == 4)

    def test_holds_the_chosen_modalities_alone(self, store: Any) -> None:
        whole = list(loader(store, samples_per_epoch=8).epoch(0))
        chosen = PatchLoader(
            store, CASES, with_overrides(PLAIN, {"samples_per_epoch": 8}), 0, ("t1c", "t2f")
        )
        for batch, all_four in zip(chosen.epoch(0), whole, strict=True):
            assert torch.equal(batch.image, all_four.image[:, [1, 3]])
            assert torch.equal(batch.label, all_four.label)

    def test_pads_cases_smaller_than_the_patch(self, store: Any) -> None:
        batch = next(loader(store, patch=[12, 4, 7]).epoch(0))
        x = batch.image[0, 0].amax((1, 2))
        assert sorted(x.tolist()) == [0, 0, 0, *range(1, 10)]


class TestSampling:
    def test_an_epoch_visits_each_case_once_by_default(self, store: Any) -> None:
        the_loader = loader(store)
        assert len(the_loader) == 4
        for epoch in range(3):
            assert sorted(b.case_ids[0] for b in the_loader.epoch(epoch)) == sorted(CASES)

    def test_orders_differ_between_epochs(self, store: Any) -> None:
        orders = {tuple(b.case_ids[0] for b in loader(store).epoch(epoch)) for epoch in range(10)}
        assert len(orders) > 3

    @pytest.mark.parametrize("samples", [3, 6, 11])
    def test_rounds_go_on_across_epochs(self, store: Any, samples: int) -> None:
        the_loader = loader(store, samples_per_epoch=samples)
        drawn = [c for e in range(4) for b in the_loader.epoch(e) for c in b.case_ids]
        for start in range(0, len(drawn) - 3, 4):
            assert sorted(drawn[start : start + 4]) == sorted(CASES)

    def test_the_last_batch_may_be_smaller(self, store: Any) -> None:
        the_loader = loader(store, batch_size=4, samples_per_epoch=10)
        assert [len(b.case_ids) for b in the_loader.epoch(0)] == [4, 4, 2]
        assert len(the_loader) == 3

    @pytest.mark.parametrize(("share", "expected"), [(1 / 3, 30), (0.5, 45), (0, 0), (1, 90)])
    def test_centres_the_asked_share_on_foreground(
        self, store: Any, share: float, expected: int
    ) -> None:
        config = with_overrides(PLAIN, {"foreground_share": share, "samples_per_epoch": 90})
        task = PatchTask(store, CASES, config, 0)
        assert sum(task.is_centred(0, sample) for sample in range(90)) == expected

    def test_short_epochs_get_their_share_too(self, store: Any) -> None:
        task = PatchTask(store, CASES, with_overrides(PLAIN, {"samples_per_epoch": 2}), 0)
        assert sum(task.is_centred(epoch, i) for epoch in range(30) for i in range(2)) == 20

    def test_a_centred_patch_holds_tumour_where_there_is_one(self, store: Any) -> None:
        for batch in loader(store, foreground_share=1, samples_per_epoch=40).epoch(0):
            # c4 knows of no foreground: its patches lie anywhere
            assert batch.label.any() or batch.case_ids == ["c4"]

    def test_the_order_of_cases_does_not_matter(self, store: Any) -> None:
        a = PatchLoader(store, CASES, PLAIN, 0)
        b = PatchLoader(store, CASES[::-1], PLAIN, 0)
        assert all(same(x, y) for x, y in zip(a.epoch(0), b.epoch(0), strict=True))


NOISY: dict[str, Any] = {
    "batch_size": 2,
    "samples_per_epoch": 9,
    "augment": [
        {"kind": "flip"},
        {"kind": "rotate90"},
        {"kind": "gaussian_noise", "probability": 0.5},
        {"kind": "rotate_scale", "probability": 0.5},
        {"kind": "gamma", "probability": 0.5},
    ],
}


class TestDeterminism:
    def test_batches_are_equal_for_0_and_2_workers(self, store: Any) -> None:
        here = loader(store, **NOISY)
        there = loader(store, **NOISY, workers=2)
        try:
            for epoch in (0, 1, 5):
                pairs = list(zip(here.epoch(epoch), there.epoch(epoch), strict=True))
                assert all(same(a, b) for a, b in pairs)
        finally:
            there.close()

    @pytest.mark.parametrize("workers", [0, 1])
    def test_an_epoch_can_start_in_the_middle(self, store: Any, workers: int) -> None:
        whole = list(loader(store, **NOISY).epoch(3))
        the_loader = loader(store, **NOISY, workers=workers)
        try:
            rest = list(the_loader.epoch(3, start=2))
        finally:
            the_loader.close()
        assert len(rest) == 3
        assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))

    def test_starting_at_the_end_gives_nothing(self, store: Any) -> None:
        assert list(loader(store).epoch(0, start=4)) == []

    def test_samples_do_not_depend_on_the_batch_size(self, store: Any) -> None:
        one = torch.cat([b.image for b in loader(store, **NOISY).epoch(0)])
        three = loader(store, **{**NOISY, "batch_size": 3})
        assert torch.equal(one, torch.cat([b.image for b in three.epoch(0)]))

    def test_the_same_case_is_augmented_anew_each_epoch(self, store: Any) -> None:
        the_loader = PatchLoader(store, ["c0"], with_overrides(PLAIN, NOISY), 0)
        patches = [image for e in range(3) for b in the_loader.epoch(e) for image in b.image]
        assert len({image.numpy().tobytes() for image in patches}) == len(patches)

    def test_another_seed_gives_other_patches(self, store: Any) -> None:
        a, b = next(loader(store, 0, **NOISY).epoch(0)), next(loader(store, 1, **NOISY).epoch(0))
        assert not torch.equal(a.image, b.image)

    def test_global_random_numbers_are_neither_used_nor_moved(self, store: Any) -> None:
        first = list(loader(store, **NOISY).epoch(0))
        state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
        again = list(loader(store, **NOISY).epoch(0))
        assert all(same(a, b) for a, b in zip(first, again, strict=True))
        assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), torch_state)

    def test_a_task_sent_to_another_process_makes_the_same_batch(self, store: Any) -> None:
        task = PatchTask(store, CASES, with_overrides(PLAIN, NOISY), 0)
        assert same(pickle.loads(pickle.dumps(task))((2, 1)), task((2, 1)))


class Kill:
    """Kills the process that reads ``case`` after ``spared`` other images, at most ``times``."""

    def __init__(self, folder: Path, case: str, times: int, spared: int = 0) -> None:
        self.case, self.spared = case, spared
        self.marks = [folder / f"mark{n}" for n in range(times)]
        for mark in self.marks:
            mark.touch()

    def __call__(self, case_id: str) -> None:
        self.spared -= 1
        for mark in self.marks:
            if case_id == self.case and self.spared < 0 and mark.exists():
                mark.unlink()
                os.kill(os.getpid(), signal.SIGKILL)


class TestLostWorkers:
    def test_one_loss_is_reported_and_made_good(
        self, store: FakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        expected = list(loader(store, **NOISY).epoch(0))
        store.fault = Kill(tmp_path, "c2", times=1, spared=4)  # in the second round of four cases
        the_loader = loader(store, **NOISY, workers=1)
        with caplog.at_level(logging.WARNING):
            batches = list(the_loader.epoch(0))
        assert all(same(a, b) for a, b in zip(expected, batches, strict=True))
        assert "was killed" in caplog.text
        assert "while reading c2; going on with 0 instead of 1 workers" in caplog.text

    def test_a_second_loss_ends_training_and_names_the_case(
        self, store: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        store.fault = Kill(tmp_path, "c2", times=9)  # both workers may meet it the first time
        the_loader = loader(store, **NOISY, workers=2)
        with pytest.raises(ResourceError, match=r"while reading c2, for the second time; lower"):
            list(the_loader.epoch(0))


class TestRefused:
    def test_no_cases(self, store: Any) -> None:
        with pytest.raises(ConfigError, match="no training cases"):
            PatchLoader(store, [], PLAIN, 0)

    def test_unknown_cases(self, store: Any) -> None:
        with pytest.raises(DataError, match="c9: is not in the store"):
            PatchLoader(store, ["c9"], PLAIN, 0)

    def test_cases_without_label_map(self, store: Any) -> None:
        with pytest.raises(DataError, match="c3: has no label map"):
            PatchLoader(store, IDS, PLAIN, 0)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"patch": [0, 4, 4]}, "greater than or equal to 1"),
            ({"patch": [4, 4]}, "patch"),
            ({"batch_size": 0}, "greater than or equal to 1"),
            ({"foreground_share": 1.1}, "less than or equal to 1"),
            ({"jitter": 0.6}, "less than or equal to 0.5"),
            ({"samples_per_epoch": 0}, "greater than or equal to 1"),
            ({"augment": [{"kind": "mirror"}]}, "expected tags"),
            ({"num_workers": 2}, "did you mean 'workers'"),
        ],
    )
    def test_wrong_settings(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            build_config(LoaderConfig, settings)


class TestConfig:
    def test_comes_back_from_its_tree(self) -> None:
        config = LoaderConfig(augment=(Flip(axes=(0,)), GaussianNoise(std=0.05)))
        assert build_config(LoaderConfig, config.tree()) == config

    def test_uses_no_more_workers_than_cores(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
        assert num_workers(8) == 3
        assert num_workers(0) == 0

    @pytest.mark.parametrize(("gpu", "expected"), [(False, 0), (True, 3)])
    def test_chooses_workers_by_the_device(
        self, monkeypatch: pytest.MonkeyPatch, gpu: bool, expected: int
    ) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        assert num_workers(None) == expected


class TestBalancedSampling:
    """Of the four cases only c4 has no enhancing tumour."""

    BALANCED: ClassVar = {"case_sampling": {"kind": "balanced_et"}, "samples_per_epoch": 8}

    def test_half_of_the_samples_come_from_the_case_without_et(self, store: Any) -> None:
        cases = [b.case_ids[0] for e in range(10) for b in loader(store, **self.BALANCED).epoch(e)]
        assert cases.count("c4") == 40

    def test_a_sample_is_the_same_in_any_batch_worker_and_resume(self, store: Any) -> None:
        one = [b.case_ids[0] for b in loader(store, **self.BALANCED).epoch(2)]
        batched = loader(store, batch_size=3, workers=2, **self.BALANCED)
        assert [case for b in batched.epoch(2) for case in b.case_ids] == one
        assert [case for b in batched.epoch(2, start=1) for case in b.case_ids] == one[3:]
        batched.close()


class TestAugmentedLater:
    STRONG: ClassVar = {
        "patch": [8, 8, 8],
        "batch_size": 3,
        "samples_per_epoch": 12,
        "augment": [
            {"kind": "rotate_scale", "probability": 0.7, "scale_probability": 0.7, "degrees": 30},
            {"kind": "gaussian_noise", "probability": 0.7, "std": [0.0, 0.1]},
            {"kind": "gaussian_blur", "probability": 0.7},
            {"kind": "gamma", "probability": 0.7, "inverted": True, "keep_mean_and_std": True},
            {"kind": "low_resolution", "probability": 0.7},
            {"kind": "bias_field", "probability": 0.7},
            {"kind": "flip"},
        ],
    }

    @pytest.mark.parametrize("workers", [0, 2])
    def test_the_result_is_the_workers_own_bit_for_bit(self, store: Any, workers: int) -> None:
        here = loader(store, augment_on="workers", **self.STRONG)
        later = loader(store, augment_on="device", workers=workers, **self.STRONG)
        for done, left in zip(here.epoch(1), later.epoch(1), strict=True):
            assert done.changes == ()
            assert len(left.changes) == 3
            assert not torch.equal(done.image, left.image)
            assert same(done, left.to(torch.device("cpu")))
        later.close()

    def test_what_is_done_is_not_done_twice(self, store: Any) -> None:
        batch = next(loader(store, augment_on="device", **self.STRONG).epoch(0))
        once = batch.to(torch.device("cpu"))
        image = once.image.clone()
        assert torch.equal(once.to(torch.device("cpu")).image, image)

    def test_auto_leaves_it_to_the_workers_without_a_gpu(
        self, store: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for has_gpu in (False, True):
            monkeypatch.setattr(torch.cuda, "is_available", lambda has=has_gpu: has)
            assert PatchTask(store, CASES, PLAIN, 0).augments_later is has_gpu
