"""The members of an ensemble across runs: finished cross-validations over the same cases."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bratsml.compute.device import choose_device
from bratsml.data.folds import Split
from bratsml.data.split import listed
from bratsml.data.store import CaseMeta
from bratsml.ensembling.ensemble import average
from bratsml.ensembling.staple import MOST_MEMBERS
from bratsml.ensembling.volumes import MemberVolumes, Probabilities
from bratsml.errors import ConfigError, DataError, TrackingError
from bratsml.evaluation.whole_cases import restore_probabilities
from bratsml.inference.postprocess import Regions, Step
from bratsml.models.output import Output
from bratsml.tracking.runs import best_checkpoint, find_run, read_json_artifact
from bratsml.tracking.store import project_root
from bratsml.workflows.console import warn
from bratsml.workflows.out_of_fold import OutOfFold
from bratsml.workflows.trained import Member, TrainedModels, load_trained

SECOND_LOOK_BELOW = 10.0
"""Seconds; a quicker case is timed twice, for the first time also loads code."""


@dataclass(frozen=True)
class RunsTogether:
    """Cross-validations that can be combined case by case.

    Their folds may differ: each run predicts every case by a network that saw nothing of its
    patient, whatever its folds are, and that is all that out-of-fold means.

    Attributes:
        names: Of the runs, all different.
        steps: Post-processing of what the runs say together.
    """

    works: tuple[OutOfFold, ...]
    names: tuple[str, ...]
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, run_ids: Sequence[str], data: str, postprocess: str) -> RunsTogether:
        """Find the runs and check that they fit each other.

        Args:
            data: Of all the runs, or ``""`` for where each run's was.
            postprocess: File of steps; those that all runs share if empty.

        Raises:
            ConfigError: Fewer than two runs, or too many, or they predict other regions.
            TrackingError: A run is missing, unfinished or kept no folds.
            DataError: Their cases are not the same.
        """
        if len(run_ids) < 2 or len(set(run_ids)) < len(run_ids):
            raise ConfigError("an ensemble needs two different cv runs or more: --runs RUN,RUN")
        if len(run_ids) > MOST_MEMBERS:
            raise ConfigError(f"an ensemble takes up to {MOST_MEMBERS} runs; leave some out")
        root = project_root()
        for run in (find_run(run_id, root) for run_id in run_ids):
            if run.status != "FINISHED":
                raise TrackingError(
                    f"run {run.run_id} ({run.name}) is {run.status}, not finished; finish it first"
                )
        works = tuple(OutOfFold.of(run_id, data) for run_id in run_ids)
        names = [work.source.name for work in works]
        names = [
            name if names.count(name) == 1 else f"{name} {work.source.run_id[:6]}"
            for name, work in zip(names, works, strict=True)
        ]
        require_same_regions(works, names)
        require_same_cases([set(_scored(work)) for work in works], names)
        together = cls(works, tuple(names), _steps(works, postprocess))
        together.require_same_files(together.case_ids)
        return together

    @property
    def regions(self) -> tuple[str, ...]:
        """In the order of the first run."""
        return self.works[0].output.regions

    @property
    def nesting(self) -> Regions:
        """The regions and which lie inside which."""
        return self.works[0].regions

    @cached_property
    def case_ids(self) -> tuple[str, ...]:
        """Out-of-fold cases, in the order of the first run's folds."""
        return _scored(self.works[0])

    @cached_property
    def patients(self) -> Mapping[str, str]:
        """Case to patient."""
        return {case: self.works[0].store.meta(case).patient for case in self.case_ids}

    def meta(self, case_id: str) -> CaseMeta:
        """What is known of a case; its own grid is the same in every run."""
        return self.works[0].store.meta(case_id)

    def reference(self, case_id: str) -> npt.NDArray[np.bool_]:
        """Region masks ``(R, X, Y, Z)`` on the case's own grid."""
        return self.works[0].reference(case_id)

    def require_same_files(self, case_ids: Sequence[str]) -> None:
        """Refuse runs that know other files under the same case id.

        Raises:
            DataError: Naming the first such case.
        """
        for work, name in zip(self.works[1:], self.names[1:], strict=True):
            for case_id in case_ids:
                if work.store.meta(case_id).source_hash != self.meta(case_id).source_hash:
                    raise DataError(
                        case_id,
                        "",
                        f"its files are other ones in {name} than in {self.names[0]}",
                        "combine runs on the same data",
                    )

    @contextmanager
    def volumes(
        self, case_id: str, reference: npt.NDArray[np.bool_], members: Iterator[Probabilities]
    ) -> Iterator[MemberVolumes]:
        """The members' region probabilities of one case, one in memory at a time."""
        shape = self.meta(case_id).original_shape
        with MemberVolumes(len(self.regions), shape) as kept:
            kept.include(np.any(reference, axis=0, keepdims=True)[0])
            for probabilities in members:
                kept.add(probabilities)
            yield kept

    def out_of_fold(self, case_id: str) -> Iterator[Probabilities]:
        """Each run's out-of-fold probabilities ``(R, X, Y, Z)`` on the case's own grid."""
        for work in self.works:
            found = work.probabilities(work.fold_of(case_id), case_id)
            yield in_order(found, work.output.regions, self.regions)

    def test_cases(self) -> tuple[str, ...]:
        """The held-out cases that no run has seen.

        Raises:
            ConfigError: The runs hold out other cases, or none.
        """
        tests = [
            Split.from_tree(read_json_artifact(work.source, "split.json", work.root)).test
            for work in self.works
        ]
        for name, test in zip(self.names, tests, strict=True):
            if set(test) != set(tests[0]):
                only = sorted(set(test) ^ set(tests[0]))
                raise ConfigError(
                    f"{name} and {self.names[0]} hold out other test cases ({listed(only)}); "
                    "--test needs runs that share their split"
                )
        if not tests[0]:
            raise ConfigError(
                "the runs held out no test cases (split.test_fraction=0); leave --test out"
            )
        self.require_same_files(tests[0])
        return tests[0]

    def seconds_per_case(self) -> tuple[float, ...]:
        """Measured inference of each run: one network on the case of median size, times its folds.

        Of a CPU the work of all threads shared out over them, so that other work on the machine
        does not count; of a GPU wall time.

        Raises:
            TrackingError: A run has no checkpoint left.
        """
        return tuple(_network_seconds(work) * len(work.folds) for work in self.works)


def trained_run(run_id: str) -> TrainedModels:
    """The networks of a cross-validation's folds.

    Raises:
        TrackingError: No such run, or a fold has no checkpoint.
        CheckpointError: A checkpoint is damaged.
    """
    root = project_root()
    run = find_run(run_id, root)
    if not run.children:
        raise TrackingError(f"run {run_id} has no folds; name a finished cv run")
    members = [Member(child.name, best_checkpoint(child, root)) for child in run.children]
    return load_trained(members)


def fold_mean(
    models: TrainedModels, image: npt.NDArray[np.generic], meta: CaseMeta
) -> Probabilities:
    """Mean of the folds' probabilities ``(C, X, Y, Z)`` on the case's own grid.

    Args:
        image: ``(4, X, Y, Z)`` as the run's recipe stores it.
    """
    stored = torch.from_numpy(np.array(image, dtype=np.float32))
    mean: Tensor = average(models.probabilities(stored), "probabilities", models.output.exclusive)
    return restore_probabilities(mean.numpy(), meta, models.output)


def region_probabilities(
    output: Output, whole: Probabilities, regions: Sequence[str]
) -> Probabilities:
    """Of a network's channels the probabilities of the named regions ``(R, X, Y, Z)``."""
    found = output.region_probabilities(torch.from_numpy(whole)).numpy()
    return in_order(found, output.regions, regions)


def in_order(
    probabilities: Probabilities, present: Sequence[str], wanted: Sequence[str]
) -> Probabilities:
    """The stack of regions in another order, within 0 and 1."""
    rows = [list(present).index(name) for name in wanted]
    return cast(Probabilities, np.clip(probabilities[rows], 0, 1, dtype=np.float32))


def require_same_regions(works: Sequence[OutOfFold], names: Sequence[str]) -> None:
    """Refuse runs of which one lacks a region, or means something else by it.

    Raises:
        ConfigError: Naming the region and the runs.
    """
    first, first_name = works[0].output, names[0]
    for work, name in zip(works[1:], names[1:], strict=True):
        other = work.output
        for region in sorted({*first.regions} ^ {*other.regions}):
            lacks, has = (name, first_name) if region in first.regions else (first_name, name)
            raise ConfigError(
                f"{lacks} does not predict region {region}, which {has} does; "
                "combine runs that predict the same regions"
            )
        for region in first.regions:
            ours, theirs = first.scheme.regions[region], other.scheme.regions[region]
            if ours != theirs:
                raise ConfigError(
                    f"region {region} unites label values {listed([str(v) for v in ours])} in "
                    f"{first_name} and {listed([str(v) for v in theirs])} in {name}; "
                    "combine runs that read the labels alike"
                )


def require_same_cases(cases: Sequence[set[str]], names: Sequence[str]) -> None:
    """Refuse runs that do not have an out-of-fold prediction of the same cases.

    Raises:
        DataError: Naming cases that one of two runs lacks.
    """
    for found, name in zip(cases[1:], names[1:], strict=True):
        for one, two, lacking in ((cases[0], found, name), (found, cases[0], names[0])):
            only = sorted(one - two)
            if only:
                raise DataError(
                    listed(only),
                    "",
                    f"{len(only)} case{'s have' if len(only) > 1 else ' has'} no out-of-fold "
                    f"prediction in {lacking}",
                    "combine runs on the same cases",
                )


def _scored(work: OutOfFold) -> tuple[str, ...]:
    return tuple(case for fold in work.folds for case in fold)


def _steps(works: Sequence[OutOfFold], postprocess: str) -> tuple[Step, ...]:
    """Post-processing of the ensemble: the file's, or what all the runs share."""
    first = works[0]
    if postprocess:
        models = TrainedModels((), first.experiment, first.output.scheme, first.output)
        return models.postprocessed(postprocess).experiment.postprocess
    steps = [work.experiment.postprocess for work in works]
    if any(other != steps[0] for other in steps):
        warn(
            "the runs post-process differently, so what they say together is not post-processed; "
            "give --postprocess FILE to choose"
        )
        return ()
    return steps[0]


def _network_seconds(work: OutOfFold) -> float:
    """Inference of the first fold's network on the case of median size."""
    child = work.fold_run(0)
    models = load_trained([Member(child.name, best_checkpoint(child, work.root))])
    by_size = sorted(_scored(work), key=lambda c: (int(np.prod(work.store.meta(c).shape)), c))
    image = np.array(work.store.image(by_size[len(by_size) // 2]), dtype=np.float32)
    on_cpu = choose_device(work.experiment.compute).type == "cpu"

    def now() -> float:
        return time.process_time() / torch.get_num_threads() if on_cpu else time.perf_counter()

    seconds = float("inf")
    _, predictor = next(iter(models.predictors()))
    for _ in range(2):
        start = now()
        predictor.stored_grid(image)
        seconds = min(seconds, now() - start)
        if seconds > SECOND_LOOK_BELOW:
            break
    return seconds
