"""The plain 3-D U-Net (Çiçek et al. 2016), with group norm and interpolation on the way up."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from bratsml.config import Config
from bratsml.errors import ConfigError
from bratsml.geometry import Shape
from bratsml.models.recompute import recompute_in_backward

MOST_GROUPS = 8
"""Groups of a group norm; fewer where they would not divide the channels."""


class PlainUNetConfig(Config):
    """Two convolutions a stage, max pooling down, interpolation and concatenation up.

    Differences from the paper: group norm (Wu & He 2018) for batch norm, as batches are small;
    interpolation for transposed convolutions; padded convolutions, so that the sides stay.

    Attributes:
        channels: Width of each stage, finest first.
        narrow: Where widths are saved. ``encoder``: the first convolution of an encoder stage has
            half of the stage's width, as in the paper. ``decoder``: a decoder stage has the width
            of the next finer one.
        upsampling: Interpolation on the way up.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
    """

    kind: Literal["plain_unet"] = "plain_unet"
    channels: tuple[int, ...] = Field(default=(32, 64, 128, 256), min_length=2)
    narrow: Literal["encoder", "decoder"] = "encoder"
    upsampling: Literal["nearest", "trilinear"] = "nearest"
    checkpointing: bool = False

    @model_validator(mode="after")
    def _wide_enough(self) -> PlainUNetConfig:
        if min(self.channels) < 2:
            raise ValueError("channels must be at least 2")
        return self

    def check_patch(self, patch: Shape) -> None:
        """Refuse sides that the halvings do not divide, and a patch of which one voxel is left.

        Raises:
            ConfigError: Naming the patch and the factor.
        """
        factor: int = 2 ** (len(self.channels) - 1)
        if any(side % factor or side < factor for side in patch):
            raise ConfigError(
                f"patch {list(patch)} does not suit plain_unet: sides must be multiples of "
                f"{factor} (two to the number of model.channels less one)"
            )
        if max(patch) == factor:
            raise ConfigError(
                f"patch {list(patch)} does not suit plain_unet: its coarsest stage would be one "
                "voxel, which cannot be normalised; make a side larger"
            )

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """A network from ``(N, in_channels, X, Y, Z)`` to logits ``(N, out_channels, X, Y, Z)``."""
        encoder = []
        for before, width in pairwise((in_channels, *self.channels)):
            middle = max(before, width // 2) if self.narrow == "encoder" else width
            encoder.append(double_convolution(before, middle, width))
        decoder = []
        handed_on = self.channels
        if self.narrow == "decoder":  # the finest stage has nothing finer to follow
            handed_on = (self.channels[0], *self.channels[:-2], self.channels[-1])
        for stage, above in enumerate(self.channels[:-1]):
            width = handed_on[stage]
            decoder.append(double_convolution(handed_on[stage + 1] + above, width, width))
        head = nn.Conv3d(self.channels[0], out_channels, 1)
        network = PlainUNet(encoder, decoder, head, self.upsampling)
        if self.checkpointing:
            recompute_in_backward(network, (nn.Sequential,))
        return network


class PlainUNet(nn.Module):
    """Encoder and decoder stages, each finest first, and the head."""

    def __init__(
        self,
        encoder: list[nn.Sequential],
        decoder: list[nn.Sequential],
        head: nn.Module,
        upsampling: str,
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        self.head, self.upsampling = head, upsampling

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the image's own shape."""
        found = self.encoder[0](image)
        skipped = []
        for stage in list(self.encoder)[1:]:
            skipped.append(found)
            found = stage(functional.max_pool3d(found, 2))
        for stage, skip in zip(reversed(self.decoder), reversed(skipped), strict=True):
            enlarged = functional.interpolate(found, skip.shape[2:], mode=self.upsampling)
            found = stage(torch.cat((skip, enlarged), dim=1))
        logits: Tensor = self.head(found)
        return logits


def double_convolution(before: int, middle: int, after: int) -> nn.Sequential:
    """Twice convolution (without bias, which the norm takes out again), group norm and ReLU."""
    layers: list[nn.Module] = []
    for narrow, wide in ((before, middle), (middle, after)):
        layers.append(nn.Conv3d(narrow, wide, 3, padding=1, bias=False))
        layers.append(nn.GroupNorm(math.gcd(MOST_GROUPS, wide), wide))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
