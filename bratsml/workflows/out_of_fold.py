"""The out-of-fold predictions of a finished cross-validation, from what its folds kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from bratsml.config import build_config
from bratsml.data.folds import Split
from bratsml.data.store import Store
from bratsml.errors import TrackingError
from bratsml.evaluation.kept import kept_file, load_probabilities, old_kept_file
from bratsml.evaluation.whole_cases import label_map_of, masks_of, restore_probabilities
from bratsml.experiment import Experiment
from bratsml.files import read_yaml_file
from bratsml.inference.postprocess import Regions
from bratsml.labels import LabelMap, get_scheme
from bratsml.models.output import Output
from bratsml.tracking.runs import (
    RecordedRun,
    find_run,
    latest_run,
    read_artifact,
    read_json_artifact,
)
from bratsml.tracking.store import project_root
from bratsml.workflows.console import console
from bratsml.workflows.fold import PROBABILITIES_FOLDER
from bratsml.workflows.request import store_of_run


@dataclass(frozen=True)
class OutOfFold:
    """A finished cross-validation, with the probabilities that each fold kept."""

    source: RecordedRun
    experiment: Experiment
    store: Store
    output: Output
    folds: tuple[tuple[str, ...], ...]
    root: Path

    @classmethod
    def of(cls, run: str, data: str) -> OutOfFold:
        """The named ``cv`` run, or the latest finished one.

        Raises:
            TrackingError: No such run, or it kept no probabilities.
            ConfigError: Its data is not known.
        """
        root = project_root()
        source = find_run(run, root) if run else latest_run("cv", root)
        if not source.children:
            raise TrackingError(f"run {source.run_id} has no folds; name a finished cv run")
        tree = read_artifact(source, "experiment.yaml", root, read_yaml_file)
        experiment = build_config(Experiment, tree, "experiment.yaml of the run")
        store = store_of_run(source, data, experiment, root)
        split = Split.from_tree(read_json_artifact(source, "split.json", root))
        output = experiment.output.build(get_scheme(store.label_scheme))
        return cls(source, experiment, store, output, split.folds, root)

    @property
    def regions(self) -> Regions:
        """The regions that are scored."""
        return Regions.of(self.output.scheme, self.output.regions)

    def probabilities(self, fold: int, case_id: str) -> np.ndarray:
        """Per region ``(R, X, Y, Z)`` on the case's own grid."""
        whole = torch.from_numpy(self._channels(fold, case_id))
        return self.output.region_probabilities(whole).numpy()

    def stored_masks(self, fold: int, case_id: str) -> np.ndarray:
        """Out-of-fold masks ``(R, X, Y, Z)`` on the grid of the stored image."""
        return masks_of(self.output, self._kept(fold, case_id), self.experiment.postprocess)

    def fold_of(self, case_id: str) -> int:
        """The fold that a case was validated in."""
        return next(number for number, cases in enumerate(self.folds) if case_id in cases)

    def _channels(self, fold: int, case_id: str) -> np.ndarray:
        kept = self._kept(fold, case_id)
        return restore_probabilities(kept, self.store.meta(case_id), self.output)

    def fold_run(self, fold: int) -> RecordedRun:
        """The run of one fold.

        Raises:
            TrackingError: It was not begun.
        """
        child = next((c for c in self.source.children if c.key == f"fold_{fold}"), None)
        if child is None:
            raise TrackingError(f"run {self.source.run_id} has no fold {fold}; finish it first")
        return child

    def _kept(self, fold: int, case_id: str) -> np.ndarray:
        run, names = self.fold_run(fold), (kept_file(case_id), old_kept_file(case_id))
        shape = (self.output.num_channels, *self.store.meta(case_id).shape)
        read = partial(load_probabilities, shape=shape)
        try:
            return read_artifact(run, f"{PROBABILITIES_FOLDER}/{names[0]}", self.root, read)
        except TrackingError:
            if names[0] == names[1]:
                raise
            return read_artifact(run, f"{PROBABILITIES_FOLDER}/{names[1]}", self.root, read)

    def label_map(self, fold: int, case_id: str) -> LabelMap:
        """The case's out-of-fold prediction, post-processed as the experiment says."""
        whole = self._channels(fold, case_id)
        return label_map_of(self.output, whole, self.experiment.postprocess)

    def reference(self, case_id: str) -> np.ndarray:
        """Region masks of the case's own label map."""
        label_map = self.store.reference(case_id)
        assert label_map is not None  # a fold was validated on it
        return self.output.scheme.region_stack(label_map, self.output.regions)

    def cases(self, doing: str) -> Iterator[tuple[int, str]]:
        """Fold and id of every case, with a progress bar."""
        pairs = [(fold, case) for fold, cases in enumerate(self.folds) for case in cases]
        yield from track(pairs, doing, console=console)
