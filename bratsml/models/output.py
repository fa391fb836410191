"""What the channels of a network mean: overlapping regions, or exclusive classes.

Letters: N batch, C channels of the network, R regions, X Y Z voxels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bratsml.config import Config
from bratsml.labels import DEFAULT_REGIONS, LabelMap, LabelScheme


class OutputConfig(Config):
    """What the network is asked for.

    Attributes:
        kind: ``regions``: one sigmoid per region; ``classes``: softmax over background and tissues.
        regions: Scored regions, and with ``regions`` also the channels, in this order.
    """

    kind: Literal["regions", "classes"] = "regions"
    regions: tuple[str, ...] = DEFAULT_REGIONS

    def build(self, scheme: LabelScheme) -> Output:
        """The output for one label scheme.

        Raises:
            ConfigError: The scheme does not define a region.
        """
        scheme.require_regions(self.regions)
        return (RegionOutput if self.kind == "regions" else ClassOutput)(scheme, self.regions)


@dataclass(frozen=True)
class Output(ABC):
    """Between label maps, network channels and regions of one label scheme."""

    scheme: LabelScheme
    regions: tuple[str, ...]

    exclusive = False
    """Whether channels are exclusive classes (channel 0 is background) rather than regions."""

    @property
    @abstractmethod
    def num_channels(self) -> int:
        """C."""

    @abstractmethod
    def target(self, label: Tensor) -> Tensor:
        """What the loss compares logits with, given label-map values ``(N, 1, X, Y, Z)`` uint8."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """float32 probabilities ``(N, C, X, Y, Z)``."""

    @abstractmethod
    def region_masks(self, probabilities: Tensor) -> Tensor:
        """Boolean masks ``(R, X, Y, Z)`` of probabilities ``(C, X, Y, Z)``."""

    @abstractmethod
    def region_probabilities(self, probabilities: Tensor) -> Tensor:
        """Probability of every region ``(R, X, Y, Z)``, of probabilities ``(C, X, Y, Z)``."""

    @abstractmethod
    def label_map(self, probabilities: Tensor) -> LabelMap:
        """Label map ``(X, Y, Z)`` in the scheme's values, of probabilities ``(C, X, Y, Z)``."""


class RegionOutput(Output):
    """One sigmoid per region; a voxel belongs to a region above one half."""

    @property
    def num_channels(self) -> int:
        """See :class:`Output`."""
        return len(self.regions)

    def target(self, label: Tensor) -> Tensor:
        """Masks ``(N, R, X, Y, Z)`` as float32."""
        masks = []
        for name in self.regions:
            values = torch.tensor(self.scheme.regions[name], device=label.device, dtype=label.dtype)
            masks.append(torch.isin(label, values))
        return torch.cat(masks, dim=1).float()

    def probabilities(self, logits: Tensor) -> Tensor:
        """See :class:`Output`."""
        return logits.float().sigmoid()

    def region_masks(self, probabilities: Tensor) -> Tensor:
        """See :class:`Output`."""
        return probabilities > 0.5

    def region_probabilities(self, probabilities: Tensor) -> Tensor:
        """See :class:`Output`; the channels are the regions."""
        return probabilities

    def label_map(self, probabilities: Tensor) -> LabelMap:
        """See :class:`Output`; inner regions are painted over outer ones."""
        return self.scheme.label_map(self.region_masks(probabilities).numpy(), self.regions)


class ClassOutput(Output):
    """Softmax over background and the scheme's tissues, in ascending order of value."""

    exclusive = True

    @property
    def num_channels(self) -> int:
        """See :class:`Output`."""
        return len(self.scheme.values)

    def target(self, label: Tensor) -> Tensor:
        """Channel numbers ``(N, 1, X, Y, Z)`` as int64."""
        table = torch.zeros(max(self.scheme.values) + 1, dtype=torch.int64, device=label.device)
        table[list(self.scheme.values)] = torch.arange(self.num_channels, device=label.device)
        return table[label.long()]

    def probabilities(self, logits: Tensor) -> Tensor:
        """See :class:`Output`."""
        return logits.float().softmax(dim=1)

    def region_masks(self, probabilities: Tensor) -> Tensor:
        """See :class:`Output`; the likeliest class of each voxel decides."""
        stack = self.scheme.region_stack(self.label_map(probabilities), self.regions)
        return torch.from_numpy(stack)

    def region_probabilities(self, probabilities: Tensor) -> Tensor:
        """See :class:`Output`; the sum over the classes that a region unites."""
        channels = {value: number for number, value in enumerate(self.scheme.values)}
        return torch.stack(
            [
                probabilities[[channels[value] for value in self.scheme.regions[name]]].sum(dim=0)
                for name in self.regions
            ]
        )

    def label_map(self, probabilities: Tensor) -> LabelMap:
        """See :class:`Output`."""
        values = np.array(self.scheme.values, dtype=np.uint8)
        return values[probabilities.argmax(dim=0).numpy()]
