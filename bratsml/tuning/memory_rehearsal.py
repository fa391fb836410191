"""The work whose memory is asked for: training steps and one window, as ``fit`` does them.

The oracle traces it with fake tensors, the probe runs it on a GPU, the benchmark on a CPU: all
three see the same :class:`~bratsml.training.state.Training`, loss, optimizer and precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from bratsml.compute.device import autocast_of
from bratsml.data.batch import Batch
from bratsml.experiment import Experiment
from bratsml.inference.window import evaluating
from bratsml.labels import get_scheme
from bratsml.losses.deep_supervision import DeepSupervision
from bratsml.models.registry import neighbours_of
from bratsml.training.state import Training
from bratsml.training.transfer import freeze

MOST_BATCHES = 2
"""Accumulated batches that are run: the second finds gradients, and all later ones are like it."""
WHOLE_DEPTH = 155
"""Slices of a BraTS case before cropping, for networks that see the whole depth."""
USUAL_SCHEME = "brats2023"
"""Label scheme where an experiment leaves it to the data."""


@dataclass
class Rehearsal:
    """A training ready to make its steps.

    Attributes:
        make_batches: The batches of one optimizer step, in the host's memory.
        make_window: What inference gives the network at once, on the device.
    """

    experiment: Experiment
    training: Training
    make_batches: Callable[[], Sequence[Any]]
    make_window: Callable[[], Tensor]

    def steps(self, count: int) -> None:
        """Optimizer steps, each with its own batches."""
        self.training.model.train()
        for _ in range(count):
            self.training.set_lr()
            self.training.step(self.make_batches())

    def make_optimizer_state(self) -> None:
        """The optimizer's state after a first step, without forward and backward pass.

        A first step proper may be skipped, as when the scaler of fp16 looks for its scale.
        """
        optimizer = self.training.optimizer.optimizer
        for weight in self.training.model.parameters():
            if weight.requires_grad:
                weight.grad = torch.zeros_like(weight)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def window(self) -> None:
        """One forward pass of the sliding window, with the weights that validation uses."""
        training = self.training
        device = training.fabric.device
        with (
            training.weights_to_keep(),
            evaluating(training.model),
            torch.no_grad(),  # as inference_mode, which fake tensors cannot look into
        ):
            windows = self.make_window()
            with autocast_of(self.experiment.compute, device):
                logits = training.model(windows)
            logits.float()


def build_network(experiment: Experiment, in_channels: int) -> nn.Module:
    """The network, with ordinary weights on the CPU, frozen as far as the experiment wants."""
    network = experiment.model.build(in_channels, _output_of(experiment).num_channels)
    freeze(network, experiment.transfer)
    return network


def set_up(
    experiment: Experiment,
    network: nn.Module,
    in_channels: int,
    fabric: Fabric | None = None,
    batch: Callable[[tuple[int, ...]], Any] | None = None,
) -> Rehearsal:
    """Bring a network and everything around it together, as a training run does.

    Args:
        fabric: Instead of the one that ``compute`` describes.
        batch: Makes a batch from the shape of its images; random numbers if not given.
    """
    output = _output_of(experiment)
    ends = neighbours_of(experiment.model)
    # a compiler cannot be traced; what it fuses takes less memory, not more
    compute = experiment.compute.model_copy(update={"compile": False} if fabric else {})
    training = Training.set_up(
        compute,
        network,
        DeepSupervision(experiment.loss.build(output.exclusive)),
        lambda label: output.target(label[..., ends : label.shape[-1] - ends]),
        experiment.optim,
        experiment.schedule,
        experiment.train,
        num_batches=1000,
        config_tree={},
        fabric=fabric,
    )
    loader, (x, y, z) = experiment.loader, experiment.loader.patch
    shape = (loader.batch_size, in_channels, x, y, z + 2 * ends)
    sides = [side or WHOLE_DEPTH for side in experiment.window]
    window = (experiment.inference.window_batch, in_channels, *sides)
    make_batch = batch or random_batch
    count = min(experiment.train.accumulate, MOST_BATCHES)
    return Rehearsal(
        experiment,
        training,
        lambda: [make_batch(shape) for _ in range(count)],
        lambda: torch.rand(window, device=training.fabric.device),
    )


def random_batch(shape: tuple[int, ...]) -> Batch:
    """Images of uniform noise with a label map of background and one tissue."""
    image = torch.rand(shape)
    label = (image[:, :1] > 0.7).to(torch.uint8)
    return Batch(image, label, ["random"] * shape[0])


def _output_of(experiment: Experiment) -> Any:
    scheme = experiment.data.label_scheme
    return experiment.output.build(get_scheme(USUAL_SCHEME if scheme == "auto" else scheme))
