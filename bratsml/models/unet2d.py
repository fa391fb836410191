"""A residual U-Net on axial slices, seen from outside as a network for volumes.

The depth axis becomes the batch, so a slice is predicted from itself alone or, in 2.5-D, from
itself and its neighbours as further channels. The slices are those of the stored grid, X by Y.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from monai.networks.blocks import Convolution, ResidualUnit
from monai.networks.nets import UNet
from pydantic import Field, model_validator
from torch import Tensor, nn

from bratsml.config import Config
from bratsml.errors import ConfigError
from bratsml.geometry import Shape
from bratsml.models.recompute import recompute_in_backward


class UNet2dConfig(Config):
    """The residual UNet with 3 x 3 kernels in place of 3 x 3 x 3, a third of the weights.

    Attributes:
        channels: Width of each stage, finest first.
        strides: Reduction of X and Y between stages; one fewer than ``channels``.
        res_units: Convolutions per residual unit; 0 for plain convolutions.
        dropout: Share of activations dropped, 0 to 1.
        neighbours: Slices on either side of a slice that the network sees beside it (2.5-D); those
            beyond the ends of the volume are 0, like everything outside the brain.
        slice_batch: Slices in one pass while evaluating, which bounds the memory; while training
            all slices of the batch pass at once.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
    """

    kind: Literal["unet2d"] = "unet2d"
    channels: tuple[int, ...] = Field(default=(16, 32, 64, 128, 256), min_length=2)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    res_units: int = Field(default=2, ge=0)
    norm: Literal["instance", "batch"] = "instance"
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    neighbours: int = Field(default=0, ge=0, le=16)
    slice_batch: int = Field(default=16, ge=1)
    checkpointing: bool = False

    @model_validator(mode="after")
    def _one_stride_between_stages(self) -> UNet2dConfig:
        if len(self.strides) != len(self.channels) - 1:
            raise ValueError(
                f"strides must have one entry fewer than channels, received {len(self.strides)} "
                f"for {len(self.channels)} channels"
            )
        if min(self.channels) < 1 or min(self.strides) < 1:
            raise ValueError("channels and strides must be positive")
        return self

    def check_patch(self, patch: Shape) -> None:
        """Refuse slices that the strides do not divide or reduce to one pixel; any depth will do.

        Raises:
            ConfigError: Naming the patch and the factor.
        """
        factor = math.prod(self.strides)
        if any(side % factor or side < factor for side in patch[:2]):
            raise ConfigError(
                f"patch {list(patch)} does not suit unet2d: X and Y must be multiples of {factor} "
                "(the product of model.strides)"
            )
        if max(patch[:2]) == factor:
            raise ConfigError(
                f"patch {list(patch)} does not suit unet2d: its coarsest stage would be one pixel, "
                "which cannot be normalised; make X or Y larger"
            )

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """A network from ``(N, in_channels, X, Y, Z)`` to logits ``(N, out_channels, X, Y, Z)``.

        See :class:`SliceBySlice` for the depth while training.
        """
        network = UNet(
            spatial_dims=2,
            in_channels=in_channels * (2 * self.neighbours + 1),
            out_channels=out_channels,
            channels=self.channels,
            strides=self.strides,
            num_res_units=self.res_units,
            norm=self.norm,
            dropout=self.dropout,
        )
        if self.checkpointing:
            recompute_in_backward(network, (ResidualUnit, Convolution))
        return SliceBySlice(network, self.neighbours, self.slice_batch)


class SliceBySlice(nn.Module):
    """A network for slices applied to every slice of a volume.

    While evaluating, logits are as deep as the image, and neighbours beyond its ends are 0: a whole
    volume is to be passed, not a piece of it. While training, the first and last ``neighbours``
    slices of the image serve as neighbours only, so the logits are that much shallower at either
    end.

    Args:
        network: From ``(B, (2 * neighbours + 1) * C, X, Y)`` to ``(B, K, X, Y)``. Its channels are
            the modalities of the lowest slice, then those of the next one up.
        neighbours: See :class:`UNet2dConfig`.
        slice_batch: See :class:`UNet2dConfig`.
    """

    def __init__(self, network: nn.Module, neighbours: int, slice_batch: int) -> None:
        super().__init__()
        self.network = network
        self.neighbours = neighbours
        self.slice_batch = slice_batch

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(N, K, X, Y, Z)`` of an image ``(N, C, X, Y, Z)``.

        Raises:
            ValueError: While training, an image of ``2 * neighbours`` slices or fewer.
        """
        if self.training:
            return self._logits(image)
        ends = (self.neighbours, self.neighbours)
        padded = nn.functional.pad(image, ends) if self.neighbours else image
        pieces = [
            self._logits(padded[..., start : start + self.slice_batch + sum(ends)])
            for start in range(0, image.shape[-1], self.slice_batch)
        ]
        return torch.cat(pieces, dim=-1)

    def _logits(self, image: Tensor) -> Tensor:
        """Logits of all slices that have both their neighbours in the image."""
        width = 2 * self.neighbours + 1
        batch, channels, *plane, depth = image.shape
        if depth < width:
            raise ValueError(f"{depth} slices leave none with {self.neighbours} on either side")
        around = image.unfold(-1, width, 1)  # (N, C, X, Y, Z, width)
        slices = around.permute(0, 4, 5, 1, 2, 3).reshape(-1, width * channels, *plane)
        logits: Tensor = self.network(slices)
        return logits.reshape(batch, -1, *logits.shape[1:]).permute(0, 2, 3, 4, 1).contiguous()

    def to(self, *args: Any, **kwargs: Any) -> SliceBySlice:
        """As of every module; the channels-last layout of volumes becomes that of slices."""
        if kwargs.get("memory_format") is torch.channels_last_3d:
            kwargs["memory_format"] = torch.channels_last
        return super().to(*args, **kwargs)
