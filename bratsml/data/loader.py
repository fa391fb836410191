"""Batches of training patches that depend on seed, epoch and position alone.

Sample ``i`` of epoch ``e`` is the same with any number of workers and after a resume in the middle
of an epoch: its random numbers come from a generator made for ``(seed, e, i)``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from bratsml.config import Config
from bratsml.data.augment import (
    DEFAULT_AUGMENT,
    AugmentStep,
    Change,
    apply_changes,
    draw_changes,
)
from bratsml.data.batch import Batch
from bratsml.data.cases import MODALITIES
from bratsml.data.modalities import channels_of
from bratsml.data.patches import (
    Foreground,
    random_foreground_voxel,
    random_start,
    read_patch,
    start_around,
)
from bratsml.data.pool import usable_cores
from bratsml.data.sampling import ET, CaseSampling, UniformSampling, choose_sampler
from bratsml.data.slices import is_thin, read_slices
from bratsml.data.store import Store
from bratsml.data.workers import Key, WorkerLostError, WorkerPool
from bratsml.errors import ConfigError, DataError, ResourceError
from bratsml.geometry import Array, Shape

MOST_WORKERS = 8
"""Workers used when the configuration leaves their number open."""
_SAMPLE = 1  # stream of random numbers; those of the cases' order are 0 and 2 to 4

_log = logging.getLogger(__name__)

Side = Annotated[int, Field(ge=1, le=4096)]


class LoaderConfig(Config):
    """How patches are drawn and prepared.

    Attributes:
        patch: Voxels along X, Y, Z.
        batch_size: Patches per batch; the last batch of an epoch may hold fewer.
        samples_per_epoch: ``None`` for as many as there are training cases. Cases are visited in a
            new random order each time round, and the round goes on across epochs.
        case_sampling: Which cases come how often (see :mod:`bratsml.data.sampling`).
        foreground_share: Share of the patches that are centred on a voxel of a region drawn among
            those the case has; the others lie anywhere.
        jitter: Largest shift of such a patch along each axis, as a share of its side.
        augment: Steps in order (see :mod:`bratsml.data.augment`); empty for none.
        augment_on: Where the steps are applied: by the ``workers`` that read the patches, or on the
            ``device`` of the training step; ``auto`` takes a GPU when there is one. What is drawn
            for a patch is the same.
        workers: Processes, at most one per core; 0 reads in the training process, ``None`` chooses
            (see :func:`num_workers`). The batches are the same for any number.
        prefetch: Batches that each worker prepares ahead.
        timeout_s: Longest wait for a worker's batch.
    """

    patch: tuple[Side, Side, Side] = (128, 128, 128)
    batch_size: int = Field(default=1, ge=1, le=1024)
    samples_per_epoch: int | None = Field(default=None, ge=1)
    case_sampling: CaseSampling = UniformSampling()
    foreground_share: float = Field(default=1 / 3, ge=0, le=1)
    jitter: float = Field(default=0.1, ge=0, le=0.5)
    augment: tuple[AugmentStep, ...] = DEFAULT_AUGMENT
    augment_on: Literal["auto", "workers", "device"] = "auto"
    workers: int | None = Field(default=None, ge=0, le=256)
    prefetch: int = Field(default=2, ge=1, le=64)
    timeout_s: float = Field(default=300.0, gt=0)


class PatchLoader:
    """Batches of one set of training cases, epoch after epoch.

    Args:
        store: Preprocessed cases with label maps.
        case_ids: The training cases; their order does not matter.
        config: See :class:`LoaderConfig`.
        seed: With epoch and position, all that a sample depends on.
        modalities: Those that are read, in the order of ``MODALITIES``.
        neighbours: Slices by which images and label maps are deeper than the patch at either end,
            for networks that see neighbouring slices; those outside the case are 0.

    Raises:
        ConfigError: No cases.
        DataError: A case is not in the store or has no label map.
    """

    def __init__(
        self,
        store: Store,
        case_ids: Sequence[str],
        config: LoaderConfig,
        seed: int,
        modalities: Sequence[str] = MODALITIES,
        neighbours: int = 0,
    ) -> None:
        if not case_ids:
            raise ConfigError("there are no training cases; lower split.folds or add cases")
        self._task = PatchTask(store, case_ids, config, seed, modalities, neighbours)
        self._config = config
        self.workers = num_workers(config.workers)
        self._pin = torch.cuda.is_available()
        self._pool: WorkerPool[Batch] | None = None
        self._had_a_loss = False

    def __len__(self) -> int:
        """Batches per epoch."""
        return math.ceil(self._task.samples_per_epoch / self._config.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number ``start`` on.

        When a worker is lost, the rest is prepared by half as many, once; the batches stay the
        same.

        Raises:
            ResourceError: Workers were lost again, or one took too long; names the case.
            DataError: A stored case cannot be read.
        """
        position = start
        while position < len(self):
            try:
                for batch in self._batches([(epoch, i) for i in range(position, len(self))]):
                    position += 1
                    yield batch
            except WorkerLostError as error:
                self._go_on_with_fewer(error)

    def close(self) -> None:
        """End the workers; the next epoch starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _batches(self, keys: Sequence[Key]) -> Iterator[Batch]:
        if self.workers == 0:
            for key in keys:
                batch = self._task(key)
                yield batch.pin_memory() if self._pin else batch
            return
        if self._pool is None:
            self._pool = WorkerPool(
                self._task,
                self.workers,
                prefetch=self._config.prefetch,
                timeout_s=self._config.timeout_s,
                pin=self._pin,
            )
        yield from self._pool.run(keys)

    def _go_on_with_fewer(self, error: WorkerLostError) -> None:
        self.close()
        if self._had_a_loss:
            raise ResourceError(
                f"{error}, for the second time; lower loader.workers, loader.prefetch or "
                "loader.batch_size, or free memory"
            ) from error
        self._had_a_loss = True
        fewer = self.workers // 2
        _log.warning("%s; going on with %d instead of %d workers", error, fewer, self.workers)
        self.workers = fewer


class PatchTask:
    """Makes any batch on its own; what worker processes are given.

    Args: as :class:`PatchLoader`.
    """

    def __init__(
        self,
        store: Store,
        case_ids: Sequence[str],
        config: LoaderConfig,
        seed: int,
        modalities: Sequence[str] = MODALITIES,
        neighbours: int = 0,
    ) -> None:
        self.store, self.config, self.seed = store, config, seed
        self.modalities = tuple(modalities)
        self.neighbours = neighbours
        x, y, z = config.patch
        self.form = (x, y, z + 2 * neighbours)
        self.case_ids = tuple(sorted(case_ids))
        self.samples_per_epoch = config.samples_per_epoch or len(self.case_ids)
        self.augments_later = augments_later(config)
        self._shapes: dict[str, Shape] = {}
        self._foreground: dict[str, Foreground] = {}
        for case_id in self.case_ids:
            meta = store.meta(case_id)
            if not meta.has_label:
                raise DataError(case_id, "", "has no label map to train on", "leave it out")
            self._shapes[case_id] = meta.shape
            self._foreground[case_id] = {
                region: np.asarray(indices, dtype=np.int64)
                for region, indices in meta.foreground.items()
            }
        with_et = {case for case, regions in self._foreground.items() if len(regions.get(ET, ()))}
        self._cases = choose_sampler(config.case_sampling, self.case_ids, with_et, self._generator)

    def __call__(self, key: Key, report: Callable[[int], None] | None = None) -> Batch:
        """The batch ``(epoch, number)``; ``report`` hears the number of each patch begun."""
        epoch, number = key
        samples = self._samples_of(number)
        # NumPy asks for huge pages, which makes the first write to fresh memory much cheaper
        image = np.empty((len(samples), len(self.modalities), *self.form), np.float32)
        label = np.empty((len(samples), 1, *self.form), np.uint8)
        batch = Batch(torch.from_numpy(image), torch.from_numpy(label), [])
        for place, sample in enumerate(samples):
            if report:
                report(place)
            changes = self._fill(image[place], label[place, 0], epoch, sample)
            if self.augments_later:
                batch.changes += (changes,)
            else:
                apply_changes(batch.image[place], batch.label[place, 0], changes)
            batch.case_ids.append(self.case_of(epoch, sample))
        return batch

    def describe(self, key: Key, item: int | None) -> str:
        """Case id of one patch of a batch, or of all its patches."""
        samples = self._samples_of(key[1])
        chosen = samples if item is None else samples[item : item + 1]
        return " or ".join(dict.fromkeys(self.case_of(key[0], sample) for sample in chosen))

    def case_of(self, epoch: int, sample: int) -> str:
        """The case that a sample is taken from."""
        return self._cases.case_at(self._position(epoch, sample))

    def is_centred(self, epoch: int, sample: int) -> bool:
        """Whether the sample is to be centred on foreground: evenly spread, in exact proportion."""
        share, position = self.config.foreground_share, self._position(epoch, sample)
        return math.floor((position + 1) * share) > math.floor(position * share)

    def _fill(
        self,
        image: npt.NDArray[np.float32],
        label: npt.NDArray[np.uint8],
        epoch: int,
        sample: int,
    ) -> tuple[Change, ...]:
        """Write the sample's patch into ``(M, X, Y, Z)`` and ``(X, Y, Z)``; how to augment it."""
        case_id = self.case_of(epoch, sample)
        rng = self._generator(_SAMPLE, epoch, sample)
        x, y, z = self._start(case_id, self.is_centred(epoch, sample), rng)
        whole, stored_label, first = self._stored(case_id, z - self.neighbours)
        start = (x, y, z - self.neighbours - first)
        if self.modalities == MODALITIES:
            read_patch(whole, start, image)
        else:  # one by one, as a choice of channels would copy the whole case
            for channel, modality in zip(channels_of(self.modalities), image, strict=True):
                read_patch(whole[channel], start, modality)
        read_patch(stored_label, start, label)
        return draw_changes(self.config.augment, (len(self.modalities), *self.form), rng)

    def _stored(self, case_id: str, first: int) -> tuple[Array, Array, int]:
        """Image and label map of a case from slice ``first`` on, and their first slice's number.

        That is the whole case unless the patch is thin.
        """
        if is_thin(self.form[2], self._shapes[case_id][2]):
            return read_slices(self.store, case_id, first, self.form[2])
        label = self.store.label(case_id)
        assert label is not None  # checked when the task was made
        return self.store.image(case_id), label, 0

    def _start(self, case_id: str, centred: bool, rng: np.random.Generator) -> Shape:
        shape, patch = self._shapes[case_id], self.config.patch
        if centred:
            voxel = random_foreground_voxel(self._foreground[case_id], shape, rng)
            if voxel is not None:
                return start_around(voxel, shape, patch, self.config.jitter, rng)
        return random_start(shape, patch, rng)

    def _samples_of(self, number: int) -> range:
        first = number * self.config.batch_size
        return range(first, min(first + self.config.batch_size, self.samples_per_epoch))

    def _position(self, epoch: int, sample: int) -> int:
        """Samples drawn before this one since training began."""
        return epoch * self.samples_per_epoch + sample

    def _generator(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=stream))


def augments_later(config: LoaderConfig) -> bool:
    """Whether patches are augmented on the device of the training step, not by the workers."""
    if config.augment_on == "auto":
        return torch.cuda.is_available()
    return config.augment_on == "device"


def num_workers(asked: int | None) -> int:
    """Worker processes to use: at most one per core.

    Args:
        asked: ``None`` for none without a GPU, where training itself needs every core, and up to
            :data:`MOST_WORKERS` with one.
    """
    if asked is None:
        asked = MOST_WORKERS if torch.cuda.is_available() else 0
    return min(asked, usable_cores())
