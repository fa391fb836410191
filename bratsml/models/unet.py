"""The residual UNet (Kerfoot et al. 2019; MONAI's implementation)."""

from __future__ import annotations

import math
from typing import Literal

from monai.networks.blocks import Convolution, ResidualUnit
from monai.networks.nets import UNet
from pydantic import Field, model_validator
from torch import nn

from bratsml.config import Config
from bratsml.errors import ConfigError
from bratsml.geometry import Shape
from bratsml.models.recompute import recompute_in_backward


class UNetConfig(Config):
    """Encoder and decoder of residual units with instance norm and PReLU.

    Attributes:
        channels: Width of each stage, finest first.
        strides: Reduction between stages; one fewer than ``channels``.
        res_units: Convolutions per residual unit; 0 for plain convolutions.
        dropout: Share of activations dropped, 0 to 1.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
    """

    kind: Literal["unet"] = "unet"
    channels: tuple[int, ...] = Field(default=(16, 32, 64, 128, 256), min_length=2)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    res_units: int = Field(default=2, ge=0)
    norm: Literal["instance", "batch"] = "instance"
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    checkpointing: bool = False

    @model_validator(mode="after")
    def _one_stride_between_stages(self) -> UNetConfig:
        if len(self.strides) != len(self.channels) - 1:
            raise ValueError(
                f"strides must have one entry fewer than channels, received {len(self.strides)} "
                f"for {len(self.channels)} channels"
            )
        if min(self.channels) < 1 or min(self.strides) < 1:
            raise ValueError("channels and strides must be positive")
        return self

    def check_patch(self, patch: Shape) -> None:
        """Refuse sides that the strides do not divide.

        Raises:
            ConfigError: Naming the patch and the factor.
        """
        factor = math.prod(self.strides)
        if any(side % factor or side < factor for side in patch):
            raise ConfigError(
                f"patch {list(patch)} does not suit the unet: sides must be multiples of {factor} "
                "(the product of model.strides)"
            )

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """A network from ``(N, in_channels, X, Y, Z)`` to logits ``(N, out_channels, X, Y, Z)``."""
        network = UNet(
            spatial_dims=3,
            in_channels=in_channels,
            out_channels=out_channels,
            channels=self.channels,
            strides=self.strides,
            num_res_units=self.res_units,
            norm=self.norm,
            dropout=self.dropout,
        )
        if self.checkpointing:
            recompute_in_backward(network, (ResidualUnit, Convolution))
        return network
