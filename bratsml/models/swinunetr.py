"""SwinUNETR (Hatamizadeh et al. 2022; MONAI's implementation)."""

from __future__ import annotations

from typing import Literal

import torch
from monai.networks.nets import SwinUNETR
from pydantic import Field, field_validator, model_validator
from torch import nn

from bratsml.config import Config
from bratsml.errors import ConfigError
from bratsml.geometry import Shape
from bratsml.models.attention.backends import AttentionName, require
from bratsml.models.attention.swin import use_backend

SIDE_FACTOR = 32
"""Five halvings: the patch embedding and four stages of merging."""


class SwinUNETRConfig(Config):
    """Shifted-window transformer encoder with a convolutional decoder.

    Attributes:
        feature_size: Width of the first stage, a multiple of 12 (split over 3 to 24 heads).
        drop_rate: Dropout after the projections, 0 to 1.
        attn_drop_rate: Dropout of attention weights, 0 to 1; not with ``flex``.
        drop_path: Stochastic depth, 0 to 1.
        use_v2: A residual convolution before each stage (SwinUNETR-V2, He et al. 2023).
        checkpointing: Recompute activations in the backward pass: less memory, more time.
        attention: What computes window attention; all give the same result and take the same
            weights. ``auto`` measures which is fastest; ``reference`` is MONAI's own; ``triton``
            needs a CUDA GPU.
    """

    kind: Literal["swinunetr"] = "swinunetr"
    feature_size: int = Field(default=24, ge=12)
    drop_rate: float = Field(default=0.0, ge=0.0, lt=1.0)
    attn_drop_rate: float = Field(default=0.0, ge=0.0, lt=1.0)
    drop_path: float = Field(default=0.0, ge=0.0, lt=1.0)
    use_v2: bool = False
    checkpointing: bool = False
    attention: AttentionName = "auto"

    @field_validator("feature_size")
    @classmethod
    def _multiple_of_twelve(cls, value: int) -> int:
        if value % 12:
            raise ValueError("must be a multiple of 12")
        return value

    @model_validator(mode="after")
    def _dropout_suits_the_attention(self) -> SwinUNETRConfig:
        if self.attention == "flex" and self.attn_drop_rate:
            raise ValueError("attention=flex cannot drop attention weights; use auto, or sdpa")
        return self

    def check_patch(self, patch: Shape) -> None:
        """Refuse sides that are not multiples of 32, and a patch that ends in a single voxel.

        Raises:
            ConfigError: Naming the patch.
        """
        if any(side % SIDE_FACTOR or side < SIDE_FACTOR for side in patch):
            raise ConfigError(
                f"patch {list(patch)} does not suit swinunetr: sides must be multiples of "
                f"{SIDE_FACTOR}"
            )
        if all(side == SIDE_FACTOR for side in patch):
            # One voxel at the deepest stage has no variance for its instance norm.
            raise ConfigError(
                f"patch {list(patch)} does not suit swinunetr: sides must be multiples of "
                f"{SIDE_FACTOR}, and one of them {2 * SIDE_FACTOR} or more"
            )

    def check_device(self, device: torch.device) -> None:
        """Refuse an attention that cannot train on that device.

        Raises:
            ConfigError: Saying why, and what to use instead.
        """
        require(self.attention, device, dropout=self.attn_drop_rate)

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """A network from ``(N, in_channels, X, Y, Z)`` to logits ``(N, out_channels, X, Y, Z)``."""
        network = SwinUNETR(
            in_channels=in_channels,
            out_channels=out_channels,
            feature_size=self.feature_size,
            drop_rate=self.drop_rate,
            attn_drop_rate=self.attn_drop_rate,
            dropout_path_rate=self.drop_path,
            use_checkpoint=self.checkpointing,
            use_v2=self.use_v2,
        )
        use_backend(network, self.attention)
        return network
