"""Averaging what several networks say of one case: arithmetic on probabilities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

Average = Literal["probabilities", "logits"]
TINY = 1e-6
"""Probabilities are kept this far from 0 and 1 before their logits are taken."""


def average(members: Iterable[Tensor], kind: Average, exclusive: bool) -> Tensor:
    """Mean of the members' probabilities, or probabilities of the mean of their logits.

    Args:
        members: Probabilities of shape ``(C, X, Y, Z)``, taken one at a time: memory does not grow
            with their number.
        exclusive: Channels are exclusive classes (softmax) rather than regions (sigmoid).

    Returns:
        Shape ``(C, X, Y, Z)``, float32.

    Raises:
        ValueError: There are no members, or their shapes differ.
    """
    total: Tensor | None = None
    count = 0
    for member in members:
        if total is not None and total.shape != member.shape:
            raise ValueError(f"members differ in shape: {total.shape} and {member.shape}")
        term = member.float() if kind == "probabilities" else _logits(member.float(), exclusive)
        total = term.clone() if total is None else total.add_(term)
        count += 1
    if total is None:
        raise ValueError("nothing to average")
    mean = total.div_(count)
    if kind == "probabilities":
        return mean
    return mean.softmax(dim=0) if exclusive else mean.sigmoid()


def _logits(probabilities: Tensor, exclusive: bool) -> Tensor:
    clamped = probabilities.clamp(TINY, 1 - TINY)
    return clamped.log() if exclusive else torch.logit(clamped)
