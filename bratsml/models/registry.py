"""The table of models: a new one is a file beside this and a line here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from bratsml.models.dynunet import DynUNetConfig
from bratsml.models.mednext import MedNeXtConfig
from bratsml.models.segresnet import SegResNetConfig
from bratsml.models.swinunetr import SwinUNETRConfig
from bratsml.models.unet import UNetConfig

ModelConfig = Annotated[
    UNetConfig | SwinUNETRConfig | MedNeXtConfig | DynUNetConfig | SegResNetConfig,
    Field(discriminator="kind"),
]


def count_parameters(model: nn.Module) -> int:
    """Number of trainable weights."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
