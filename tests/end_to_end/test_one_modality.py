"""A network that reads T2-FLAIR alone and finds one region, from training to label maps."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

pytestmark = pytest.mark.slow
Run = Callable[..., "subprocess.CompletedProcess[str]"]

SETTINGS = (
    "train.epochs=2 train.validate_every=1 loader.samples_per_epoch=4 loader.batch_size=2 "
    "split.folds=2 model.channels=[4,8] loader.workers=0 launcher.kind=inline "
    "loader.patch=[16,16,16] inference.window=[32,32,32] inference.overlap=0 "
    "data.recipe.kind=native loader.augment_on=device loader.case_sampling.kind=balanced_et"
)


def test_from_training_to_label_maps(project: Path, run: Run, raw_cases: Path) -> None:
    experiment = ["--experiment", "experiments/t2f_whole_tumour.yaml"]
    trained = run("cv", *experiment, "--data", str(raw_cases), "--set", SETTINGS)
    found = re.search(r"run ([0-9a-f]{32})", trained.stdout)
    assert found, trained.stdout
    run("predict", "--runs", found[1], "--data", str(raw_cases), "--out", "label_maps")
    written = sorted((project / "label_maps").rglob("*.nii.gz"))
    assert len(written) == 6
    values: set[int] = set()
    for path in written:
        values |= set(np.unique(np.asanyarray(nibabel.load(path).dataobj)))
    assert values <= {0, 2}  # whole tumour is painted as oedema, with nothing inside it
    refused = run("missing-modalities", "--run", found[1], code=1)
    assert "read t2f alone" in refused.stderr
