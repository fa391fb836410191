from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bratsml.errors import ConfigError
from bratsml.models.mednext import MedNeXtConfig, upkern
from bratsml.models.registry import count_parameters


@pytest.mark.parametrize(
    ("size", "millions"), [("S", 5.55), ("B", 10.53), ("M", 17.55), ("L", 61.78)]
)
def test_parameter_counts_are_the_published_ones(size: str, millions: float) -> None:
    config = MedNeXtConfig(size=size, deep_supervision=True)
    with torch.device("meta"):
        network = config.build(4, 3)
    assert round(count_parameters(network) / 1e6, 2) == millions


@pytest.mark.parametrize("size", ["S", "L"])
def test_a_kernel_of_5_adds_98_weights_per_depthwise_kernel(size: str) -> None:
    with torch.device("meta"):
        small = MedNeXtConfig(size=size).build(4, 3)
        large = MedNeXtConfig(size=size, kernel=5).build(4, 3)
    kernels = sum(
        p.shape[0] for name, p in small.named_parameters() if name.endswith("conv1.weight")
    )
    assert count_parameters(large) - count_parameters(small) == (5**3 - 3**3) * kernels


def test_one_voxel_at_the_bottom_is_refused() -> None:
    with pytest.raises(ConfigError, match="one voxel"):
        MedNeXtConfig().check_patch((16, 16, 16))


def pair(**settings: object) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    return (
        MedNeXtConfig(width=2, **settings).build(4, 3),
        MedNeXtConfig(width=2, kernel=5, **settings).build(4, 3),
    )


def test_upkern_copies_all_but_the_depthwise_kernels() -> None:
    small, large = pair()
    upkern(large, small.state_dict())
    for name, value in large.state_dict().items():
        trained = small.state_dict()[name]
        if name.endswith("conv1.weight"):
            # the centre of both grids is the same point
            assert torch.allclose(value[..., 2, 2, 2], trained[..., 1, 1, 1])
            assert value.shape[2:] == (5, 5, 5)
        else:
            assert torch.equal(value, trained), name


def test_upkern_of_linear_kernels_by_hand() -> None:
    # samples of 3 taps at -1, 0, 1 on a grid of 5: positions -1.2, -.6, 0, .6, 1.2, clamped
    small, large = pair()
    trained = small.state_dict()
    kernel = trained["enc_stages.0.0.conv1.weight"]
    kernel.copy_(torch.tensor([-1.0, 0.0, 1.0]).expand_as(kernel))
    upkern(large, trained)
    enlarged = large.state_dict()["enc_stages.0.0.conv1.weight"]
    line = torch.tensor([-1.0, -0.6, 0.0, 0.6, 1.0])
    assert torch.allclose(enlarged, line.expand_as(enlarged), atol=1e-6)


def test_what_was_learned_survives_upkern() -> None:
    """The larger network starts much nearer to the smaller than a fresh one is."""
    small, large = pair()
    image = torch.randn((1, 4, 32, 16, 16), generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.avg_pool3d(image, 5, stride=1, padding=2)
    away: Callable[[], torch.Tensor] = lambda: (large(smooth) - small(smooth)).norm()  # noqa: E731
    fresh = away()
    upkern(large, small.state_dict())
    assert away() < fresh


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"width": 4}, "is \\[4, 4, 1, 1, 1\\] in one and"),
        ({"deep_supervision": True}, "only one of the two has out_blocks"),
    ],
)
def test_upkern_refuses_another_network(other: dict[str, object], message: str) -> None:
    network = MedNeXtConfig(width=2, kernel=5).build(4, 3)
    trained = MedNeXtConfig(**{"width": 2, **other}).build(4, 3).state_dict()
    with pytest.raises(ConfigError, match=message):
        upkern(network, trained)
