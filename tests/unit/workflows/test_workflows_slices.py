"""Slices through the workflows: what the loss compares, and what the estimate measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bratsml.config import build_config
from bratsml.experiment import Experiment
from bratsml.labels import get_scheme
from bratsml.workflows import estimate as estimates
from bratsml.workflows.fold import FoldWork

SCHEME = get_scheme("brats2021")


def experiment(neighbours: int) -> Experiment:
    tree = {
        "model": {
            "kind": "unet2d",
            "channels": [2, 4],
            "strides": [2],
            "res_units": 1,
            "neighbours": neighbours,
        },
        "loader": {"patch": [8, 8, 1], "batch_size": 2},
        "inference": {"overlap": 0.5},
        "compute": {"device": "cpu"},
    }
    return build_config(Experiment, tree)


def work(neighbours: int) -> FoldWork:
    one = experiment(neighbours)
    nothing: Any = None
    return FoldWork(one, nothing, nothing, 0, SCHEME, one.output.build(SCHEME), Path())


@pytest.mark.parametrize("neighbours", [0, 1, 2])
def test_the_loss_compares_the_slices_that_have_logits(neighbours: int) -> None:
    label = torch.zeros((2, 1, 8, 8, 1 + 2 * neighbours), dtype=torch.uint8)
    label[..., neighbours] = 4  # enhancing tumour in the middle, nothing around it
    target = work(neighbours).target(label)
    assert target.shape == (2, 3, 8, 8, 1)
    assert bool(target.all())


def test_inference_takes_the_whole_depth_whatever_the_window() -> None:
    assert experiment(1).window == (8, 8, 0)
    tree = experiment(1).tree()
    tree["inference"]["window"] = [16, 8, 4]
    assert build_config(Experiment, tree).window == (16, 8, 0)


def test_a_window_that_spans_an_axis_is_counted_once() -> None:
    # 20 pixels in windows of 8, every 4: at 0, 4, 8 and 12 along X and along Y; one along Z
    assert estimates._windows(experiment(1), (20, 20, 99)) == 16


def test_the_estimate_measures_patches_with_their_neighbours_and_whole_depths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[bool, tuple[int, ...]]] = []

    class Watched(torch.nn.Conv3d):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append((self.training, tuple(image.shape)))
            out = super().forward(image)
            return out[..., 2:-2] if self.training else out

    monkeypatch.setattr(Experiment, "build_model", lambda self, count: Watched(4, count, 1))
    cost = estimates.measure_step(experiment(2), "brats2021", (20, 20, 13))
    assert cost.step_seconds > 0
    assert set(seen) == {(True, (2, 4, 8, 8, 5)), (False, (1, 4, 8, 8, 13))}
