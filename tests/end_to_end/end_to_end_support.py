"""Settings and environment of the end-to-end tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TINY = (
    "train.epochs=2 train.validate_every=1 loader.samples_per_epoch=4 loader.batch_size=2 "
    "split.folds=2 model.channels=[4,8] model.strides=[2] loader.workers=0"
)
"""Settings under which a fold takes a second or two."""


def environment() -> dict[str, str]:
    """The test's environment with the interpreter's tools first and no MLflow settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
    kept["OMP_NUM_THREADS"] = "1"
    kept["COLUMNS"] = "160"
    return kept
