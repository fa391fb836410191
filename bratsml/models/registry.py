"""The table of models: a new one is a file beside this and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from bratsml.geometry import Shape
from bratsml.models.dynunet import DynUNetConfig
from bratsml.models.mednext import MedNeXtConfig
from bratsml.models.plain_unet import PlainUNetConfig
from bratsml.models.segresnet import SegResNetConfig
from bratsml.models.swinunetr import SwinUNETRConfig
from bratsml.models.unet import UNetConfig
from bratsml.models.unet2d import UNet2dConfig

ModelConfig = Annotated[
    UNetConfig
    | PlainUNetConfig
    | UNet2dConfig
    | SwinUNETRConfig
    | MedNeXtConfig
    | DynUNetConfig
    | SegResNetConfig,
    Field(discriminator="kind"),
]


def count_parameters(model: nn.Module) -> int:
    """Number of trainable weights."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def neighbours_of(model: ModelConfig) -> int:
    """Slices beyond either end of a patch along Z that the network sees while training."""
    return model.neighbours if isinstance(model, UNet2dConfig) else 0


def window_of(model: ModelConfig, patch: Shape) -> Shape:
    """The window for a network trained on such patches; a side of 0 spans the whole volume.

    A network for slices takes as many as there are, so each has its true neighbours.
    """
    return (*patch[:2], 0) if isinstance(model, UNet2dConfig) else patch
