"""nnU-Net's network (Isensee et al. 2021, 2024), planned from patch and spacing.

Composed of MONAI's blocks and not of its ``DynUNet``, which registers every weight twice, keeps
coarse logits as state between passes, and blows them up to full size for deep supervision.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetOutBlock, UnetUpBlock
from pydantic import Field, model_validator
from torch import Tensor, nn

from bratsml.config import Config
from bratsml.errors import ConfigError
from bratsml.geometry import Shape
from bratsml.models.nnunet_plan import Plan, plan_stages
from bratsml.models.recompute import recompute_in_backward

NORM = ("instance", {"affine": True})
ACTIVATION = ("leakyrelu", {"inplace": True, "negative_slope": 0.01})
RESIDUAL_BLOCKS = (1, 3, 4, 6, 6, 6)
"""Blocks of the stages of the residual encoder; stages beyond have as many as the last."""


class DynUNetConfig(Config):
    """U-Net with instance norm and leaky ReLU whose depth, strides and kernels follow from a plan.

    Differences from nnU-Net's own: convolutions have no bias (instance norm takes it out again).

    Attributes:
        planned_patch: The patch that the topology is planned for; ``loader.patch`` may be another
            one that its strides divide.
        spacing_mm: Voxel size along X, Y, Z that it is planned for.
        encoder: ``plain``: two convolutions a stage; ``residual``: nnU-Net's ResEnc, 1-3-4-6-6-6
            residual blocks, one convolution a decoder stage.
        width: Channels of the first stage, doubled at each.
        max_width: Most channels of a stage.
        deep_supervision: While training also give logits at all coarser resolutions but the two
            coarsest.
        checkpointing: Recompute activations in the backward pass: less memory, more time.
    """

    kind: Literal["dynunet"] = "dynunet"
    planned_patch: Shape = (128, 160, 112)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    encoder: Literal["plain", "residual"] = "plain"
    width: int = Field(default=32, ge=1)
    max_width: int = Field(default=320, ge=1)
    deep_supervision: bool = False
    checkpointing: bool = False

    @model_validator(mode="after")
    def _can_be_planned(self) -> DynUNetConfig:
        try:
            plan_stages(self.planned_patch, self.spacing_mm)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def plan(self) -> Plan:
        """Strides and kernels of every stage."""
        return plan_stages(self.planned_patch, self.spacing_mm)

    def check_patch(self, patch: Shape) -> None:
        """Refuse sides that the strides do not divide, and a patch of which one voxel is left.

        Raises:
            ConfigError: Naming the patch and the factors.
        """
        factors = self.plan.factors
        if any(side % f or side < f for side, f in zip(patch, factors, strict=True)):
            raise ConfigError(
                f"patch {list(patch)} does not suit the dynunet: sides must be multiples of "
                f"{list(factors)}, as planned for {list(self.planned_patch)} "
                "(model.planned_patch)"
            )
        if patch == factors:
            raise ConfigError(
                f"patch {list(patch)} does not suit the dynunet: its coarsest stage would be one "
                "voxel, which cannot be normalised; make a side larger"
            )

    def build(self, in_channels: int, out_channels: int) -> nn.Module:
        """A network from ``(N, in_channels, X, Y, Z)`` to logits ``(N, out_channels, X, Y, Z)``.

        With ``deep_supervision`` and while training it gives a tuple, finest first.
        """
        plan = self.plan
        widths = [min(self.width * 2**i, self.max_width) for i in range(len(plan.strides))]
        residual = self.encoder == "residual"
        encoder = (_residual_encoder if residual else _plain_encoder)(in_channels, widths, plan)
        decoder: list[nn.Module] = [
            UpBlockOfOneConvolution(below, above, kernel, stride)
            if residual
            else UnetUpBlock(3, below, above, kernel, 1, stride, NORM, ACTIVATION)
            for (above, below), kernel, stride in zip(
                pairwise(widths), plan.kernels[:-1], plan.strides[1:], strict=True
            )
        ]
        count = max(len(decoder) - 1, 1) if self.deep_supervision else 1
        heads = [UnetOutBlock(3, width, out_channels) for width in widths[:count]]
        network = PlannedUNet(encoder, decoder, heads)
        network.apply(_initialise)
        if self.checkpointing:
            kinds = (UnetBasicBlock, ResidualBlock, UnetUpBlock, UpBlockOfOneConvolution)
            recompute_in_backward(network, kinds)
        return network


class PlannedUNet(nn.Module):
    """Encoder stages, decoder stages and heads, each finest first."""

    def __init__(
        self,
        encoder: Sequence[nn.Module],
        decoder: Sequence[nn.Module],
        heads: Sequence[nn.Module],
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(decoder)
        self.heads = nn.ModuleList(heads)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits at full resolution; while training, when there are several heads, of each."""
        features = [self.encoder[0](image)]
        for stage in self.encoder[1:]:
            features.append(stage(features[-1]))
        current = features.pop()
        logits: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            current = self.decoder[level](current, features.pop())
            if level == 0 or (self.training and level < len(self.heads)):
                logits.append(self.heads[level](current))
        return logits[0] if len(logits) == 1 else tuple(reversed(logits))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut that averages before it projects (ResNet-D).

    MONAI's ``UnetResBlock`` projects with a strided convolution instead, and so ignores seven of
    eight voxels.
    """

    def __init__(self, before: int, after: int, kernel: Shape, stride: Shape) -> None:
        super().__init__()
        self.first = _normalised(before, after, kernel, stride)
        self.second = _normalised(after, after, kernel, (1, 1, 1), activation=False)
        shortcut: list[nn.Module] = []
        if stride != (1, 1, 1):
            shortcut.append(nn.AvgPool3d(stride, stride))
        if before != after:
            shortcut.append(_normalised(before, after, (1, 1, 1), (1, 1, 1), activation=False))
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = nn.LeakyReLU(0.01, inplace=True)

    def start_as_shortcut(self) -> None:
        """Let the block begin as its shortcut, as nnU-Net does."""
        norm = self.second[1]
        assert isinstance(norm, nn.InstanceNorm3d)
        nn.init.zeros_(norm.weight)

    def forward(self, features: Tensor) -> Tensor:
        """Features of the next resolution."""
        activated: Tensor = self.activation(
            self.second(self.first(features)) + self.shortcut(features)
        )
        return activated


class UpBlockOfOneConvolution(nn.Module):
    """Upsampling, the skip connection, and one convolution where the plain network has two."""

    def __init__(self, below: int, above: int, kernel: Shape, stride: Shape) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose3d(below, above, stride, stride, bias=False)
        self.convolution = _normalised(2 * above, above, kernel, (1, 1, 1))

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        """Features at the resolution of ``skip``."""
        joined: Tensor = self.convolution(torch.cat((self.upsample(features), skip), dim=1))
        return joined


def _plain_encoder(in_channels: int, widths: list[int], plan: Plan) -> list[nn.Module]:
    return [
        UnetBasicBlock(3, before, after, kernel, stride, NORM, ACTIVATION)
        for before, after, kernel, stride in zip(
            [in_channels, *widths], widths, plan.kernels, plan.strides, strict=False
        )
    ]


def _residual_encoder(in_channels: int, widths: list[int], plan: Plan) -> list[nn.Module]:
    stem = _normalised(in_channels, widths[0], plan.kernels[0], (1, 1, 1))
    stages: list[nn.Module] = []
    for level, (width, kernel, stride) in enumerate(
        zip(widths, plan.kernels, plan.strides, strict=True)
    ):
        before = widths[max(level - 1, 0)]
        blocks = [ResidualBlock(before, width, kernel, stride)]
        for _ in range(RESIDUAL_BLOCKS[min(level, len(RESIDUAL_BLOCKS) - 1)] - 1):
            blocks.append(ResidualBlock(width, width, kernel, (1, 1, 1)))
        stages.append(nn.Sequential(*blocks))
    stages[0] = nn.Sequential(stem, *stages[0].children())
    return stages


def _normalised(
    before: int, after: int, kernel: Shape, stride: Shape, *, activation: bool = True
) -> nn.Sequential:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    convolution = nn.Conv3d(before, after, kernel, stride, padding, bias=False)
    norm = nn.InstanceNorm3d(after, affine=True)
    extra = [nn.LeakyReLU(0.01, inplace=True)] if activation else []
    return nn.Sequential(convolution, norm, *extra)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ResidualBlock):
        module.start_as_shortcut()
