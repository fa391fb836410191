"""Copies that lie slice by slice: what is read, how much of it, and when they are made anew."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bratsml.config import with_overrides
from bratsml.data import slices as slices_module
from bratsml.data.loader import LoaderConfig, PatchLoader, PatchTask
from bratsml.data.slices import read_slices
from bratsml.errors import ResourceError

SHAPE = (6, 5, 9)
CASE = "case"
KEY = "0123456789abcdef" * 4


class FakeStore:
    """One case; channel 2 of its image holds each voxel's slice plus one, so a patch tells it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index = SimpleNamespace(cases={CASE: KEY})
        self.folder = path / "cases" / CASE
        self.folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        image = rng.standard_normal((4, *SHAPE)).astype(np.float16)
        image[2] = np.arange(SHAPE[2]) + 1
        label = rng.integers(0, 5, SHAPE).astype(np.uint8)
        np.save(self.folder / "image.npy", image)
        np.save(self.folder / "label.npy", label)

    def holder_of(self, case_id: str) -> Any:
        return self

    def translated(self, case_id: str, label: Any) -> Any:
        return label

    def meta(self, case_id: str) -> Any:
        voxel = int(np.ravel_multi_index((3, 2, 4), SHAPE))
        return SimpleNamespace(shape=SHAPE, foreground={"ET": [voxel]}, has_label=True)

    def image(self, case_id: str) -> Any:
        return np.load(self.folder / "image.npy", mmap_mode="r")

    def label(self, case_id: str) -> Any:
        return np.load(self.folder / "label.npy", mmap_mode="r")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return FakeStore(tmp_path / "store")


def copies(store: Any) -> list[Path]:
    return sorted(store.folder.glob("*_slices_*.npy"))


class TestReadSlices:
    @pytest.mark.parametrize(
        ("first", "depth", "low", "high"),
        [(0, 9, 0, 9), (4, 1, 4, 5), (-2, 5, 0, 3), (7, 5, 7, 9), (-5, 3, 0, 0), (20, 2, 9, 9)],
    )
    def test_gives_those_that_exist(
        self, store: Any, first: int, depth: int, low: int, high: int
    ) -> None:
        for _ in range(2):  # making the copies, then reading them
            image, label, number = read_slices(store, CASE, first, depth)
            assert number == low
            assert np.array_equal(image, store.image(CASE)[..., low:high])
            assert np.array_equal(label, store.label(CASE)[..., low:high])
            assert (image.dtype, label.dtype) == (np.float16, np.uint8)

    def test_copies_are_made_once_and_named_after_the_content(self, store: Any) -> None:
        read_slices(store, CASE, 0, 1)
        assert [path.name for path in copies(store)] == [
            "image_slices_0123456789abcdef.npy",
            "label_slices_0123456789abcdef.npy",
        ]
        before = [path.stat().st_mtime_ns for path in copies(store)]
        read_slices(store, CASE, 3, 2)
        assert [path.stat().st_mtime_ns for path in copies(store)] == before

    def test_no_more_than_the_slices_is_read(self, store: Any) -> None:
        read_slices(store, CASE, 0, 1)
        for path, kept in zip(copies(store), (store.image(CASE), store.label(CASE)), strict=True):
            whole = bytearray(path.read_bytes())
            header = len(whole) - kept.nbytes
            slice_bytes = kept.nbytes // SHAPE[2]
            for position in range(header, len(whole)):
                if not 4 <= (position - header) // slice_bytes < 6:
                    whole[position] = 0xFF  # what lies outside slices 4 and 5 is spoilt
            path.write_bytes(whole)
        image, label, _ = read_slices(store, CASE, 4, 2)
        assert np.array_equal(image, store.image(CASE)[..., 4:6])
        assert np.array_equal(label, store.label(CASE)[..., 4:6])

    @pytest.mark.parametrize("damage", [b"", b"not an array", None])
    def test_a_damaged_copy_is_made_anew(self, store: Any, damage: bytes | None) -> None:
        read_slices(store, CASE, 0, 1)
        path = copies(store)[0]
        path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
        for _ in range(2):
            image, _, _ = read_slices(store, CASE, SHAPE[2] - 1, 1)
            assert np.array_equal(image, store.image(CASE)[..., -1:])
        assert np.load(path).shape == (9, 4, 6, 5)

    def test_a_case_prepared_anew_gets_new_copies(self, store: Any) -> None:
        read_slices(store, CASE, 0, 1)
        np.save(store.folder / "image.npy", np.zeros((4, *SHAPE), np.float16))
        store.index.cases[CASE] = "f" * 64
        assert not read_slices(store, CASE, 0, 1)[0].any()

    def test_where_nothing_can_be_written_the_volume_is_read(
        self, store: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(*_: object) -> None:
            raise ResourceError("image.npy: no space left")

        monkeypatch.setattr(slices_module, "write_atomically", full)
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                image, label, number = read_slices(store, CASE, 4, 1)
        assert number == 0
        assert np.array_equal(image, store.image(CASE))
        assert np.array_equal(label, store.label(CASE))
        assert [record.message.count("no space left") for record in caplog.records] == [1]


THIN = LoaderConfig(patch=(4, 4, 1), augment=(), workers=0, samples_per_epoch=40)


def loader(store: Any, neighbours: int = 0, **settings: Any) -> PatchLoader:
    config = with_overrides(THIN, settings)
    return PatchLoader(store, [CASE], config, 0, neighbours=neighbours)


class TestLoader:
    @pytest.mark.parametrize("modalities", [("t1n", "t1c", "t2w", "t2f"), ("t1c", "t2f")])
    def test_a_thin_patch_is_what_a_thick_read_would_give(
        self, store: Any, monkeypatch: pytest.MonkeyPatch, modalities: tuple[str, ...]
    ) -> None:
        the_loader = PatchLoader(store, [CASE], THIN, 0, modalities, neighbours=1)
        quick = list(the_loader.epoch(0))
        assert copies(store)
        monkeypatch.setattr(slices_module, "THIN", 0)
        for a, b in zip(quick, the_loader.epoch(0), strict=True):
            assert a.image.shape[1] == len(modalities)
            assert torch.equal(a.image, b.image)
            assert torch.equal(a.label, b.label)

    def test_neighbours_surround_the_patch_and_are_0_beyond_the_case(self, store: Any) -> None:
        seen = set()
        anywhere = {"foreground_share": 0, "patch": [6, 5, 1], "samples_per_epoch": 120}
        for batch in loader(store, neighbours=2, **anywhere).epoch(0):
            assert batch.image.shape == (1, 4, 6, 5, 5)
            assert batch.label.shape == (1, 1, 6, 5, 5)
            numbers = batch.image[0, 2, 3, 2].int().tolist()
            middle = numbers[2]
            assert numbers == [n if 1 <= n <= 9 else 0 for n in range(middle - 2, middle + 3)]
            seen.add(middle)
            stored = store.label(CASE)[..., middle - 1]
            assert np.array_equal(batch.label[0, 0, :, :, 2], stored)
        assert seen == set(range(1, 10))  # the slices at both ends too

    @pytest.mark.parametrize("jitter", [0.0, 0.5])
    def test_the_middle_slice_of_a_centred_patch_has_the_tumour(
        self, store: Any, jitter: float
    ) -> None:
        for batch in loader(store, neighbours=3, foreground_share=1, jitter=jitter).epoch(0):
            assert (batch.image[0, 2, :, :, 3] == 5).all()  # the voxel lies in slice 4

    def test_samples_are_the_same_for_any_workers_and_start(self, store: Any) -> None:
        settings: dict[str, Any] = {
            "patch": [8, 8, 1],
            "batch_size": 4,
            "samples_per_epoch": 16,
            "augment": [
                {"kind": "flip"},
                {"kind": "rotate90"},
                {"kind": "rotate_scale", "probability": 1, "degrees": 30},
                {"kind": "gaussian_blur", "probability": 1},
                {"kind": "low_resolution", "probability": 1},
                {"kind": "gaussian_noise"},
                {"kind": "bias_field"},
                {"kind": "contrast"},
                {"kind": "gamma"},
                {"kind": "modality_dropout"},
            ],
        }
        for neighbours in (0, 1):
            here = list(loader(store, neighbours, **settings).epoch(3))
            there = loader(store, neighbours, **settings, workers=1)
            try:
                rest = list(there.epoch(3, start=1))
            finally:
                there.close()
            for a, b in zip(here[1:], rest, strict=True):
                assert torch.equal(a.image, b.image)
                assert torch.equal(a.label, b.label)
                assert torch.isfinite(a.image).all()

    def test_free_turns_of_a_slice_stay_within_it(self, store: Any) -> None:
        """Each slice keeps its number: nothing of its neighbours, and no zoom of the depth."""
        step = {"kind": "rotate_scale", "probability": 1, "degrees": 45, "factor": [0.5, 2]}
        anywhere: dict[str, Any] = {"foreground_share": 0, "patch": [12, 12, 1]}
        before = loader(store, neighbours=1, **anywhere).epoch(0)
        after = loader(store, neighbours=1, **anywhere, augment=[step]).epoch(0)
        for a, b in zip(before, after, strict=True):
            assert not torch.equal(a.image[0, 2], b.image[0, 2])
            # interpolation towards the 0 around the slices only ever lowers their numbers
            assert torch.allclose(a.image[0, 2].amax((0, 1)), b.image[0, 2].amax((0, 1)), atol=1e-4)

    def test_only_thin_patches_make_copies(self, store: Any) -> None:
        task = PatchTask(store, [CASE], with_overrides(THIN, {"patch": [4, 4, 4]}), 0)
        task((0, 0))
        assert not copies(store)


def test_reading_counts_bytes_of_one_slice(store: Any) -> None:
    """The system's own count: a slice of the copy costs a slice, not the file."""
    shape = (64, 64, 64)
    np.save(store.folder / "image.npy", np.ones((4, *shape), np.float16))
    np.save(store.folder / "label.npy", np.ones(shape, np.uint8))
    read_slices(store, CASE, 0, 1)

    def characters_read() -> int:
        lines = Path(f"/proc/{os.getpid()}/io").read_text().splitlines()
        return int(lines[0].removeprefix("rchar: "))

    if not Path("/proc/self/io").exists():
        pytest.skip("this system does not count what a process reads")
    before = characters_read()
    read_slices(store, CASE, 30, 1)
    one_slice = 64 * 64 * (4 * 2 + 1)
    assert one_slice <= characters_read() - before < 2 * one_slice
