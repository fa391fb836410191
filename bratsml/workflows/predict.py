"""``predict``: label maps for new cases, on their own grids, with fresh headers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.progress import track

from bratsml.data.cases import CaseFiles, discover_cases
from bratsml.data.meta import CaseMeta
from bratsml.data.nifti import write_label_map
from bratsml.data.preprocess import prepare_case
from bratsml.data.rejected import write_rejected
from bratsml.ensembling.ensemble import average
from bratsml.errors import ConfigError, DataError
from bratsml.evaluation.whole_cases import label_map_of, restore_probabilities
from bratsml.labels import LabelMap
from bratsml.tracking.store import project_root
from bratsml.workflows.console import console, say, warn
from bratsml.workflows.ensemble_predict import TrainedEnsemble
from bratsml.workflows.trained import (
    TrainedModels,
    load_trained,
    members_of_files,
    members_of_runs,
)

Segment = Callable[[CaseFiles], tuple[LabelMap, CaseMeta]]
"""From a case's files to its label map on its own grid, and what is known of that grid."""


@dataclass(frozen=True)
class Predicted:
    """What came of one call: cases written, cases kept from before, cases refused."""

    written: tuple[str, ...]
    kept: tuple[str, ...]
    refused: tuple[DataError, ...]


def predict(
    runs: str,
    checkpoint: str,
    data: str,
    out: str,
    overwrite: bool = False,
    postprocess: str = "",
    ensemble: str = "",
) -> Predicted:
    """Segment every case of a folder; cases already in ``out`` are kept.

    Args:
        runs: Run ids, separated by commas; a ``cv`` run stands for its folds.
        checkpoint: Checkpoint files, separated by commas.
        ensemble: An ``ensemble.yaml``, or the run of ``ensemble --runs`` that wrote one.
        data: Folder of raw cases.
        postprocess: File of steps; the experiment's own if empty.
        out: Folder that gets ``<case>.nii.gz``, and ``rejected.csv`` when cases were refused.

    Raises:
        ConfigError: Not just one of runs, checkpoint and ensemble, or no data.
        DataError: Cases were refused; the others are written.
    """
    if not data:
        raise ConfigError("predict needs data=FOLDER, a folder of cases to segment")
    if [bool(runs), bool(checkpoint), bool(ensemble)].count(True) != 1:
        raise ConfigError(
            "predict needs one of runs=ID[,ID], checkpoint=FILE[,FILE] and ensemble=ID or FILE"
        )
    segment: Segment
    if ensemble:
        segment = TrainedEnsemble.load(ensemble).postprocessed(postprocess).segment
    else:
        members = (
            members_of_runs(_parts(runs), project_root())
            if runs
            else members_of_files(_parts(checkpoint))
        )
        segment = partial(_segment, load_trained(members).postprocessed(postprocess))
    found = discover_cases(Path(data), need_labels=False)
    folder = Path(out)
    done = _predict_cases(segment, found.cases, folder, overwrite)
    refused = (*found.problems, *done.refused)
    say(f"{len(done.written)} label maps written to {out}, {len(done.kept)} were there already")
    if refused:
        write_rejected(folder / "rejected.csv", refused)
        for problem in refused:
            warn(str(problem))
        raise DataError(
            f"{len(refused)} cases",
            "rejected.csv",
            "were refused",
            "mend them and run the same command: the others are kept",
        )
    return done


def _predict_cases(
    segment: Segment, cases: tuple[CaseFiles, ...], folder: Path, overwrite: bool
) -> Predicted:
    written, kept, refused = [], [], []
    for case in track(cases, "cases", console=console):
        path = folder / f"{case.id}.nii.gz"
        if path.is_file() and not overwrite:
            kept.append(case.id)
            continue
        try:
            label_map, meta = segment(case)
            write_label_map(path, np.asarray(label_map), meta.affine)
            written.append(case.id)
        except DataError as error:
            refused.append(error)
    return Predicted(tuple(written), tuple(kept), tuple(refused))


def _segment(models: TrainedModels, case: CaseFiles) -> tuple[LabelMap, CaseMeta]:
    recipe = models.experiment.data.recipe
    prepared = prepare_case(case, recipe, models.scheme, with_label=False)
    image = torch.from_numpy(np.array(prepared.image, dtype=np.float32))
    mean = average(models.probabilities(image), "probabilities", models.output.exclusive)
    whole = restore_probabilities(mean.numpy(), prepared.meta, models.output)
    return label_map_of(models.output, whole, models.experiment.postprocess), prepared.meta


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
