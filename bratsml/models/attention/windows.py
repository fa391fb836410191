"""Where tokens lie in a window and windows in an image: what bias and shift mask follow from.

Swin attention adds to every score a bias that depends on the offset between two tokens, and in
shifted layers keeps tokens apart that the cyclic shift has brought together from opposite borders.
Both follow from a few integers per token and per window, so no N x N array is needed:

- the row of the bias table for query ``i`` and key ``j`` is ``place[i] - place[j] + center``;
- ``i`` and ``j`` of window ``g`` are kept apart when ``(side[i] ^ side[j]) & border[g]`` is not 0.

Source: Liu et al., "Swin Transformer", ICCV 2021, section 3.2; the numbering is MONAI's.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

APART = 100.0
"""Subtracted from the score of tokens that are kept apart, as MONAI does."""

Sides = tuple[int, ...]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Windows:
    """One way of cutting images into windows, along two or three axes.

    Attributes:
        size: Tokens of a window along each axis.
        table_size: Tokens along each axis of the window that the bias table was made for. A window
            cut short by a small image numbers its tokens as the first N of that full window.
        shift: Tokens that the image was rolled along each axis; 0 where it was not.
        grid: Windows of an image along each axis; irrelevant without shift.
    """

    size: Sides
    table_size: Sides
    shift: Sides
    grid: Sides

    @classmethod
    def unshifted(cls, size: Sides, table_size: Sides) -> Windows:
        """Windows whose tokens all see each other."""
        none = (0,) * len(size)
        return cls(size, table_size, none, tuple(1 for _ in size))

    @property
    def num_tokens(self) -> int:
        """N."""
        return math.prod(self.size)

    @property
    def num_rows(self) -> int:
        """T, rows of the bias table."""
        return math.prod(2 * side - 1 for side in self.table_size)

    @property
    def is_shifted(self) -> bool:
        """Whether some tokens may have to be kept apart."""
        return any(self.shift)

    @property
    def center(self) -> int:
        """Row of the bias table for a token and itself."""
        return (self.num_rows - 1) // 2

    def __str__(self) -> str:
        shift = " shifted" if self.is_shifted else ""
        return "x".join(map(str, self.size)) + shift


@dataclass(frozen=True)
class Places:
    """:class:`Windows` as int32 tensors on a device.

    Attributes:
        place: ``(N,)``; differences of two give the row of the bias table.
        token: ``(center + 1,)``, the token at each place, or -1: the inverse of ``place``.
        side: ``(N,)``, one bit per axis: whether the token lies past the seam of the shift.
        border: ``(G,)``, one bit per axis: whether the window holds that seam.
    """

    place: Tensor
    token: Tensor
    side: Tensor
    border: Tensor


def places_on(windows: Windows, like: Tensor) -> Places:
    """The tensors on the device of ``like``; made once per device, except for fake tensors."""
    if isinstance(like, FakeTensor):
        return _make_places(windows, like.device)
    return _kept_places(windows, like.device)


@functools.lru_cache(maxsize=256)
def _kept_places(windows: Windows, device: torch.device) -> Places:
    # Made outside inference mode: the tensors are kept, and a later training step saves them.
    with torch.inference_mode(False):
        return _make_places(windows, device)


def _make_places(windows: Windows, device: torch.device) -> Places:
    tensors = [torch.from_numpy(array).to(device) for array in _numbers(windows)]
    return Places(*tensors)


@functools.lru_cache(maxsize=256)
def _numbers(windows: Windows) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    tokens = np.arange(windows.num_tokens, dtype=np.int32)
    place = np.zeros_like(tokens)
    strides = _strides(tuple(2 * side - 1 for side in windows.table_size))
    coordinates = np.unravel_index(tokens, windows.table_size)
    for along, stride in zip(coordinates, strides, strict=True):
        place += (along * stride).astype(np.int32)
    token = np.full(windows.center + 1, -1, dtype=np.int32)
    token[place] = tokens
    side = np.zeros_like(tokens)
    border = np.zeros(math.prod(windows.grid), dtype=np.int32)
    for axis, shift in enumerate(windows.shift):
        if shift:
            along = np.unravel_index(tokens, windows.size)[axis]
            side |= np.left_shift(along >= windows.size[axis] - shift, axis, dtype=np.int32)
            index = np.unravel_index(np.arange(border.size), windows.grid)[axis]
            border |= np.left_shift(index == windows.grid[axis] - 1, axis, dtype=np.int32)
    return place, token, side, border


def _strides(shape: Sides) -> Sides:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def dense_bias(table: Tensor, windows: Windows) -> Tensor:
    """The bias of every score, ``(H, N, N)``, from the table ``(T, H)``."""
    places = places_on(windows, table)
    rows = (places.place[:, None] - places.place[None, :] + windows.center).long()
    num_tokens = windows.num_tokens
    return table[rows.flatten()].view(num_tokens, num_tokens, -1).permute(2, 0, 1).contiguous()


def kept_apart(side: Tensor, border: Tensor) -> Tensor:
    """Pairs of tokens that must not see each other, ``(len(border), N, N)`` booleans."""
    crossing = side[:, None] ^ side[None, :]
    return (crossing & border[:, None, None]) != 0


def shift_mask(windows: Windows, like: Tensor) -> Tensor:
    """0 or minus :data:`APART` for every score of every window, ``(G, N, N)``, as ``like``."""
    places = places_on(windows, like)
    apart = kept_apart(places.side, places.border)
    return apart.to(like.dtype) * -APART
