from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from bratsml.config import build_config
from bratsml.errors import ConfigError
from bratsml.models.registry import count_parameters
from bratsml.models.segresnet import SegResNetConfig


def test_number_of_weights_by_hand() -> None:
    with torch.device("meta"):
        network = SegResNetConfig().build(4, 3)

    def block(width: int) -> int:
        return 2 * 27 * width**2 + 2 * 2 * width

    widths = [32, 64, 128, 256, 512]
    encoder = sum(n * block(w) for n, w in zip((1, 2, 2, 4, 4), widths, strict=True))
    between = sum(27 * a * b for a, b in pairwise(widths))  # down once and up once
    decoder = sum(block(w) for w in widths[:-1])
    assert count_parameters(network) == 27 * 4 * 32 + encoder + 2 * between + decoder + 33 * 3


def test_at_most_four_resolutions_are_supervised() -> None:
    network = SegResNetConfig(width=1, blocks=(1,) * 6, deep_supervision=True).build(4, 3)
    shapes = [level.shape[2:] for level in network(torch.zeros((1, 4, 64, 32, 32)))]
    assert shapes == [(64, 32, 32), (32, 16, 16), (16, 8, 8), (8, 4, 4)]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one block"):
        build_config(SegResNetConfig, {"blocks": [1, 0]})
    with pytest.raises(ConfigError, match="one voxel"):
        SegResNetConfig().check_patch((16, 16, 16))
