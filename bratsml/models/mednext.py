"""MedNeXt (Roy et al. 2023; MONAI's implementation, brought to the paper's expansion ratios)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from monai.networks.blocks.mednext_block import MedNeXtBlock, MedNeXtDownBlock
from monai.networks.nets.mednext import MedNeXt
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bratsml.config import Config
from bratsml.errors import ConfigError
from bratsml.geometry import Shape
from bratsml.models.recompute import recompute_in_backward

SIDE_FACTOR = 16
"""Four halvings."""

BLOCKS = {
    "S": (2, 2, 2, 2, 2),
    "B": (2, 2, 2, 2, 2),
    "M": (3, 4, 4, 4, 4),
    "L": (3, 4, 8, 8, 8),
}
"""Blocks of the four encoder stages and the bottleneck; the decoder mirrors the encoder."""

EXPANSIONS = {
    "S": (2, 2, 2, 2, 2),
    "B": (2, 3, 4, 4, 4),
    "M": (2, 3, 4, 4, 4),
    "L": (3, 4, 8, 8, 8),
}
"""By how much a block of those stages widens between its two pointwise convolutions."""


class MedNeXtConfig(Config):
    """ConvNeXt blocks throughout, with residual down- and up-sampling blocks.

    MONAI's network differs from the paper's in one place, put right here: a block that halves the
    resolution has the expansion ratio of the stage it leads to, not of the one it leaves (B, M, L).

    Attributes:
        size: Number of blocks and expansion ratios: S, B, M or L of the paper.
        kernel: Side of the depthwise kernels. A network of 5 is best started from a trained one of
            3 (:func:`upkern`).
        width: Channels of the first stage.
        deep_supervision: While training also give logits at the four coarser resolutions.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
    """

    kind: Literal["mednext"] = "mednext"
    size: Literal["S", "B", "M", "L"] = "S"
    kernel: Literal[3, 5] = 3
    width: int = Field(default=32, ge=1)
    deep_supervision: bool = False
    checkpointing: bool = False

    def check_patch(self, patch: Shape) -> None:
        """Refuse sides that are not multiples of 16, and a patch of which one voxel would be left.

        Raises:
            ConfigError: Naming the patch.
        """
        if any(side % SIDE_FACTOR or side < SIDE_FACTOR for side in patch):
            raise ConfigError(
                f"patch {list(patch)} does not suit mednext: sides must be multiples of "
                f"{SIDE_FACTOR}"
            )
        if max(patch) == SIDE_FACTOR:
            raise ConfigError(
                f"patch {list(patch)} does not suit mednext: its coarsest stage would be one "
                "voxel, which cannot be normalised; make a side larger"
            )

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """A network from ``(N, in_channels, X, Y, Z)`` to logits ``(N, out_channels, X, Y, Z)``.

        With ``deep_supervision`` and while training it gives a tuple of five, finest first.
        """
        *stages, bottleneck = BLOCKS[self.size]
        *ratios, deepest = EXPANSIONS[self.size]
        network = MedNeXt(
            in_channels=in_channels,
            out_channels=out_channels,
            init_filters=self.width,
            kernel_size=self.kernel,
            encoder_expansion_ratio=ratios,
            decoder_expansion_ratio=ratios[::-1],
            bottleneck_expansion_ratio=deepest,
            blocks_down=stages,
            blocks_bottleneck=bottleneck,
            blocks_up=stages[::-1],
            use_residual_connection=True,
            deep_supervision=self.deep_supervision,
        )
        for stage, ratio in enumerate((*ratios[1:], deepest)):
            width = self.width * 2**stage
            network.down_blocks[stage] = MedNeXtDownBlock(
                width, 2 * width, ratio, self.kernel, use_residual_connection=True
            )
        if self.checkpointing:
            recompute_in_backward(network, (MedNeXtBlock,))
        return network


def upkern(network: nn.Module, trained: Mapping[str, Tensor]) -> None:
    """Start a network from the weights of the same one with smaller kernels (UpKern).

    Depthwise kernels are enlarged by trilinear interpolation (Roy et al. 2023); everything else is
    copied. Their sums grow with the number of taps, which the normalisation that follows each of
    them takes out again.

    Args:
        network: Its weights are replaced.
        trained: State dict of the network with the smaller kernels.

    Raises:
        ConfigError: The two differ in more than the size of their kernels.
    """
    wanted = network.state_dict()
    if set(wanted) != set(trained):
        name = min(set(wanted) ^ set(trained))
        raise ConfigError(
            f"UpKern needs the same network but for its kernels: only one of the two has {name}; "
            "use the same model.size and model.deep_supervision"
        )
    network.load_state_dict(
        {name: _enlarged(name, trained[name], value) for name, value in wanted.items()}
    )


def _enlarged(name: str, trained: Tensor, wanted: Tensor) -> Tensor:
    if trained.shape == wanted.shape:
        return trained
    if trained.ndim != 5 or trained.shape[:2] != wanted.shape[:2]:
        raise ConfigError(
            f"UpKern needs the same network but for its kernels: {name} is "
            f"{list(trained.shape)} in one and {list(wanted.shape)} in the other"
        )
    size = torch.Size(wanted.shape[2:])
    return functional.interpolate(trained.float(), size, mode="trilinear").to(trained.dtype)
