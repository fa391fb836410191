"""Sliding-window inference over a whole case, with optional mirrored passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import combinations
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from monai.inferers import sliding_window_inference
from pydantic import Field, field_validator
from torch import Tensor, nn

from bratsml.config import Config
from bratsml.geometry import Shape
from bratsml.models.output import Output


class InferenceConfig(Config):
    """How a network is applied to a volume larger than its patch.

    Attributes:
        window: Voxels of one window; ``None`` for the training patch. Networks on slices take the
            whole depth, whatever its third number.
        overlap: Share of a window that its neighbour covers again, 0 to below 1.
        blend: Weight of a voxel within its window: ``gaussian`` (most in the centre), ``constant``.
        flips: Axes (0, 1, 2) mirrored; every subset of them is one more pass, averaged.
        window_batch: Windows in one forward pass.
    """

    window: Shape | None = None
    overlap: float = Field(default=0.5, ge=0.0, lt=1.0)
    blend: Literal["gaussian", "constant"] = "gaussian"
    flips: tuple[int, ...] = ()
    window_batch: int = Field(default=1, ge=1)

    @field_validator("flips")
    @classmethod
    def _distinct_axes(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(axis not in (0, 1, 2) for axis in value) or len(set(value)) != len(value):
            raise ValueError("use distinct axes out of 0, 1, 2")
        return value


def predict_probabilities(
    model: nn.Module,
    output: Output,
    image: Tensor | npt.NDArray[np.generic],
    window: Shape,
    config: InferenceConfig,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Tensor:
    """Probabilities of one image, blended over windows and averaged over mirrored passes.

    Volumes smaller than the window are padded. Windows run on ``device``, one ``window_batch`` at a
    time; whole volumes stay on the CPU.

    Args:
        image: Shape ``(M, X, Y, Z)``, any float dtype.
        window: Voxels along X, Y, Z; 0 for the whole of an axis.

    Returns:
        float32 on the CPU, shape ``(C, X, Y, Z)``.
    """
    whole = torch.as_tensor(image)[None].to(torch.float32)
    passes = list(mirror_subsets(config.flips))
    total: Tensor | None = None
    with evaluating(model), torch.inference_mode():
        for axes in passes:
            mirrored = whole.flip([axis + 2 for axis in axes])
            logits = sliding_window_inference(
                mirrored,
                window,
                config.window_batch,
                lambda windows: _forward(model, windows, autocast),
                overlap=config.overlap,
                mode=config.blend,
                sw_device=device,
                device=torch.device("cpu"),
                progress=False,
            )
            assert isinstance(logits, Tensor)
            unmirrored = output.probabilities(logits).flip([axis + 2 for axis in axes])
            total = unmirrored if total is None else total.add_(unmirrored)
        assert total is not None
        mean = total.div_(len(passes))[0]
    return mean.clone()


def mirror_subsets(axes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Every subset of the axes, the empty one first: ``2 ** len(axes)`` of them."""
    for count in range(len(axes) + 1):
        yield from combinations(axes, count)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch the model to evaluation and afterwards back to what it was."""
    before = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(before)


def _forward(
    model: nn.Module, windows: Tensor, autocast: Callable[[], AbstractContextManager[object]]
) -> Tensor:
    with autocast():
        logits: Tensor = model(windows)
    return logits.float()
