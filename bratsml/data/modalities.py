"""Which modalities a network reads: all four, or some of them.

Stores and whole images always hold all four, in the order of ``MODALITIES``; the loader and the
predictor pick a network's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from bratsml.data.cases import MODALITIES


def _in_channel_order(chosen: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(chosen)) < len(chosen):
        raise ValueError("name each modality once")
    return tuple(modality for modality in MODALITIES if modality in chosen)


Modalities = Annotated[
    tuple[Literal["t1n", "t1c", "t2w", "t2f"], ...],
    Field(min_length=1),
    AfterValidator(_in_channel_order),
]
"""Distinct modalities, put in channel order."""


def channels_of(modalities: Sequence[str]) -> tuple[int, ...]:
    """Where in a whole image the modalities are."""
    return tuple(MODALITIES.index(modality) for modality in modalities)
