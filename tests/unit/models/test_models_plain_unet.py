"""The plain U-Net: published sizes, and what reaches what."""

from __future__ import annotations

import pytest
import torch

from bratsml.config import build_config
from bratsml.errors import ConfigError
from bratsml.models.plain_unet import PlainUNetConfig
from bratsml.models.registry import count_parameters


def by_hand(stages: list[tuple[int, int, int]], classes: int) -> int:
    """Weights of double convolutions (in, middle, out), their group norms, and the head."""
    kernels = sum(27 * (a * b + b * c) + 2 * (b + c) for a, b, c in stages)
    return kernels + (stages[-1][2] + 1) * classes


def test_of_18_maps_it_has_about_1_3_million_weights() -> None:
    network = PlainUNetConfig(channels=(18, 36, 72, 144)).build(4, 3)
    up = [(144 + 72, 72, 72), (72 + 36, 36, 36), (36 + 18, 18, 18)]
    down = [(4, 9, 18), (18, 18, 36), (36, 36, 72), (72, 72, 144)]
    assert count_parameters(network) == by_hand(down + up, 3) == 1_292_673


def test_of_24_maps_and_five_stages_it_has_about_5_65_million_weights() -> None:
    config = PlainUNetConfig(
        channels=(24, 48, 96, 192, 192), narrow="decoder", upsampling="trilinear"
    )
    down = [(4, 24, 24), (24, 48, 48), (48, 96, 96), (96, 192, 192), (192, 192, 192)]
    up = [(192 + 192, 96, 96), (96 + 96, 48, 48), (48 + 48, 24, 24), (24 + 24, 24, 24)]
    assert count_parameters(config.build(4, 3)) == by_hand(down + up, 3) == 5_651_019


def test_every_voxel_of_the_coarsest_stage_matters_everywhere() -> None:
    torch.manual_seed(0)
    network = PlainUNetConfig(channels=(4, 8, 16)).build(1, 1).eval()
    image = torch.randn(1, 1, 16, 16, 16, requires_grad=True)
    network(image)[0, 0, 8, 8, 8].backward()
    assert (image.grad != 0).float().mean() > 0.99  # group norm and two poolings reach everywhere


def test_the_finest_detail_passes_beside_the_pooling() -> None:
    torch.manual_seed(0)
    network = PlainUNetConfig(channels=(4, 8)).build(1, 1).eval()
    for weight in network.encoder[1].parameters():
        torch.nn.init.zeros_(weight)
    one, other = torch.zeros(2, 1, 1, 8, 8, 8)
    other[..., 4, 4, 4] = 1
    assert (network(one) - network(other)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": [8]}, "at least 2 items"),
        ({"channels": [1, 8]}, "at least 2"),
        ({"upsampling": "cubic"}, "nearest"),
    ],
)
def test_wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(PlainUNetConfig, settings)
