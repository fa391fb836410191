"""Places, borders and masks of windows, against MONAI's tables and worked examples."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.swin_unetr import WindowAttention, compute_mask
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from bratsml.models.attention.windows import (
    APART,
    Windows,
    dense_bias,
    kept_apart,
    places_on,
    shift_mask,
)

CPU = torch.empty(0)


def test_a_row_of_two_tokens_by_hand() -> None:
    """Offsets -1, 0, 1 have rows 0, 1, 2; the seam cuts the last of three windows in two."""
    windows = Windows((2,), (2,), (1,), (3,))
    places = places_on(windows, CPU)
    assert windows.center == 1
    assert places.place.tolist() == [0, 1]
    assert places.token.tolist() == [0, 1]
    assert places.side.tolist() == [0, 1]
    assert places.border.tolist() == [0, 0, 1]
    assert kept_apart(places.side, places.border)[2].tolist() == [[False, True], [True, False]]
    table = torch.tensor([[10.0], [11.0], [12.0]])  # query left of key, itself, right of it
    assert dense_bias(table, windows)[0].tolist() == [[11.0, 10.0], [12.0, 11.0]]


@pytest.mark.parametrize("size", [(7, 7, 7), (2, 3, 4), (5, 3)])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_rows_of_the_table_are_monais(size: tuple[int, ...], share: float) -> None:
    """Also for windows cut short, which take the first tokens of the full one."""
    index = WindowAttention(2, 1, size).relative_position_index
    tokens = int(share * len(index))
    windows = Windows.unshifted((tokens,), size)
    rows = torch.arange(windows.num_rows, dtype=torch.float64)[:, None]
    assert torch.equal(dense_bias(rows, windows)[0], index[:tokens, :tokens].double())


@pytest.mark.parametrize(
    ("size", "shift", "grid"),
    [
        ((2, 2, 2), (1, 1, 1), (2, 3, 2)),
        ((3, 2, 4), (1, 0, 2), (2, 2, 1)),
        ((7, 7, 7), (3, 3, 3), (1, 2, 1)),
        ((4, 3), (2, 1), (2, 2)),
        ((4, 3), (0, 1), (1, 2)),
    ],
)
def test_mask_is_monais(
    size: tuple[int, ...], shift: tuple[int, ...], grid: tuple[int, ...]
) -> None:
    sides = [side * count for side, count in zip(size, grid, strict=True)]
    expected = compute_mask(sides, size, shift, "cpu")
    assert torch.equal(shift_mask(Windows(size, size, shift, grid), CPU), expected)
    assert expected.min() == -APART


def test_places_are_kept_but_never_those_of_a_trace() -> None:
    windows = Windows((2,), (2,), (1,), (3,))
    assert places_on(windows, CPU) is places_on(windows, CPU)
    with FakeTensorMode():
        assert isinstance(places_on(windows, torch.empty(0)).place, FakeTensor)
    assert not isinstance(places_on(windows, CPU).place, FakeTensor)


def test_places_made_while_inferring_can_be_kept_for_a_backward_pass() -> None:
    with torch.inference_mode():
        made = places_on(Windows((3,), (3,), (1,), (5,)), CPU)
    assert not made.place.is_inference()
