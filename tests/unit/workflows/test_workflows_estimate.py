"""What a training is said to take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bratsml.config import build_config
from bratsml.data.split import Split
from bratsml.experiment import Experiment
from bratsml.workflows import estimate as estimates
from bratsml.workflows.estimate import Estimate, StepCost, estimate, total_seconds


class TinyStore:
    """Four cases of 8 x 8 x 12 voxels."""

    label_scheme = "brats2021"
    case_ids = ("a", "b", "c", "d")

    class Meta:
        shape = (8, 8, 12)
        has_label = True
        foreground: dict[str, Any] = {}

    def meta(self, case_id: str) -> Any:
        return self.Meta()

    def image(self, case_id: str) -> Any:
        return np.zeros((4, 8, 8, 12), np.float16)

    def label(self, case_id: str) -> Any:
        return np.zeros((8, 8, 12), np.uint8)


def test_a_fold_is_its_steps_and_its_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = build_config(
        Experiment,
        {
            "name": "x",
            "model": {"kind": "unet", "channels": [4, 8], "strides": [2]},
            "loader": {"patch": [8, 8, 8], "batch_size": 2, "samples_per_epoch": 6},
            "train": {"epochs": 10, "validate_every": 5},
            "inference": {"overlap": 0.5, "flips": [0]},
        },
    )
    cost = StepCost(0.0, 2.0, 0.25, 1000, 50)
    monkeypatch.setattr(estimates, "measure_step", lambda *_: cost)
    monkeypatch.setattr(estimates, "_time_batch", lambda *_: 1.0)
    found = estimate(experiment, TinyStore(), Split((), (("a", "b"), ("c", "d")), ()))  # type: ignore[arg-type]
    # 10 epochs x 3 steps x (2 + 1) s; 3 validations x 2 cases x (2 windows x 2 flips) x 0.25 s
    assert found.fold_seconds == pytest.approx(90 + 6 + estimates.FOLD_SECONDS)
    assert found.disk_bytes == 3 * 50 * 12


def test_reading_a_batch_is_timed() -> None:
    experiment = build_config(Experiment, {"name": "x", "loader": {"patch": [16, 16, 16]}})
    split = Split((), (("a", "b"), ("c", "d")), ())
    seconds = estimates._time_batch(
        experiment,
        TinyStore(),
        split,
        estimates.choose_device(experiment.compute),  # type: ignore[arg-type]
    )
    assert 0 < seconds < 5


@pytest.mark.parametrize(
    ("device", "parallel", "expected"),
    [("cpu", 1, 50), ("cpu", 3, 50), ("cuda", 1, 50), ("cuda", 2, 30), ("cuda", 8, 10)],
)
def test_gpus_are_added_up_and_cores_are_shared(device: str, parallel: int, expected: int) -> None:
    one = Estimate(fold_seconds=10, memory_bytes=1, disk_bytes=1, device=device)
    assert total_seconds(one, num_folds=5, parallel=parallel) == expected
