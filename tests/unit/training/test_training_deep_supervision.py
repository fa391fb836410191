"""The training step takes networks that give logits at several resolutions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from tiny_training import NumberedBatch

from bratsml.losses.deep_supervision import DeepSupervision
from bratsml.losses.registry import DiceCrossEntropyConfig
from bratsml.models.dynunet import DynUNetConfig
from bratsml.models.mednext import MedNeXtConfig
from bratsml.models.segresnet import SegResNetConfig
from bratsml.training.ema import WeightAverage
from bratsml.training.optim import OptimConfig
from bratsml.training.step import TrainStep

NETWORKS = [
    MedNeXtConfig(width=4, deep_supervision=True, checkpointing=True),
    DynUNetConfig(planned_patch=(16, 16, 32), width=4, deep_supervision=True, checkpointing=True),
    DynUNetConfig(
        planned_patch=(16, 16, 32),
        width=4,
        encoder="residual",
        deep_supervision=True,
        checkpointing=True,
    ),
    SegResNetConfig(width=4, blocks=(1, 1, 1), deep_supervision=True, checkpointing=True),
]


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: config.kind)
def test_the_loss_falls_and_the_average_gives_one_tensor(config: Any) -> None:
    torch.manual_seed(0)
    image = torch.randn((1, 2, 16, 16, 32))
    label = (image[:, :1] > 0).to(torch.uint8)
    model = config.build(2, 1)
    fabric = Fabric(accelerator="cpu", devices=1)
    wrapped, optimizer = fabric.setup(model, OptimConfig(lr=0.01).build(model))
    loss = DeepSupervision(DiceCrossEntropyConfig().build(exclusive=False))
    average = WeightAverage(model, 0.5)
    step = TrainStep(fabric, wrapped, optimizer, loss, torch.Tensor.float, 12.0, False, average)
    results = [step([NumberedBatch(image, label)]) for _ in range(3)]
    assert [result.outcome for result in results] == ["updated"] * 3
    assert results[2].loss < results[0].loss
    with torch.inference_mode(), average.applied(model):
        assert model.eval()(image).shape == label.shape
