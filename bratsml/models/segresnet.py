"""SegResNet (Myronenko 2018; MONAI's implementation with deep supervision, as in Auto3DSeg)."""

from __future__ import annotations

from typing import Literal

from monai.networks.nets.segresnet_ds import SegResBlock, SegResNetDS
from pydantic import Field, field_validator
from torch import nn

from bratsml.config import Config
from bratsml.errors import ConfigError
from bratsml.geometry import Shape
from bratsml.models.recompute import recompute_in_backward

SUPERVISED = 4
"""Resolutions with logits of their own under deep supervision, the finest included."""


class SegResNetConfig(Config):
    """Pre-activated residual blocks, the encoder deeper than the decoder.

    As in Auto3DSeg without the paper's autoencoder branch, and with instance norm for group norm.

    Attributes:
        width: Channels of the first stage, doubled at each.
        blocks: Residual blocks of each encoder stage; a decoder stage has one.
        deep_supervision: While training also give logits at up to three coarser resolutions.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
    """

    kind: Literal["segresnet"] = "segresnet"
    width: int = Field(default=32, ge=1)
    blocks: tuple[int, ...] = Field(default=(1, 2, 2, 4, 4), min_length=2)
    deep_supervision: bool = False
    checkpointing: bool = False

    @field_validator("blocks")
    @classmethod
    def _at_least_one_block(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError("each stage needs at least one block")
        return value

    def check_patch(self, patch: Shape) -> None:
        """Refuse sides that the halvings do not divide, and a patch of which one voxel is left.

        Raises:
            ConfigError: Naming the patch and the factor.
        """
        factor: int = 2 ** (len(self.blocks) - 1)
        if any(side % factor or side < factor for side in patch):
            raise ConfigError(
                f"patch {list(patch)} does not suit segresnet: sides must be multiples of {factor} "
                "(two to the number of model.blocks less one)"
            )
        if max(patch) == factor:
            raise ConfigError(
                f"patch {list(patch)} does not suit segresnet: its coarsest stage would be one "
                "voxel, which cannot be normalised; make a side larger"
            )

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """A network from ``(N, in_channels, X, Y, Z)`` to logits ``(N, out_channels, X, Y, Z)``.

        With ``deep_supervision`` and while training it gives a list, finest first.
        """
        network = SegResNetDS(
            init_filters=self.width,
            in_channels=in_channels,
            out_channels=out_channels,
            norm="instance",
            blocks_down=self.blocks,
            dsdepth=SUPERVISED if self.deep_supervision else 1,
        )
        if self.checkpointing:
            recompute_in_backward(network, (SegResBlock,))
        return network
