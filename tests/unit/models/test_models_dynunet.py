from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from monai.networks.nets import DynUNet
from torch import nn

from bratsml.config import build_config
from bratsml.errors import ConfigError
from bratsml.models.dynunet import DynUNetConfig, ResidualBlock
from bratsml.models.nnunet_plan import plan_stages
from bratsml.models.registry import count_parameters

ISOTROPIC = (1.0, 1.0, 1.0)


def test_the_plan_of_brats_has_six_stages() -> None:
    plan = plan_stages((128, 160, 112), ISOTROPIC)
    assert plan.strides == ((1, 1, 1), *[(2, 2, 2)] * 4, (2, 2, 1))
    assert plan.kernels == ((3, 3, 3),) * 6
    assert plan.factors == (32, 32, 16)


def test_a_coarse_axis_waits_until_the_others_have_caught_up() -> None:
    # 5 mm slices: x and y are halved at 1 and 2 mm, and all three at 4 mm
    plan = plan_stages((64, 64, 16), (1.0, 1.0, 5.0))
    assert plan.strides == ((1, 1, 1), (2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    assert plan.kernels == ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))


def test_an_axis_alone_is_halved_only_while_it_has_three_times_the_smallest_side() -> None:
    assert plan_stages((12, 4, 4), ISOTROPIC).strides[1:] == ((2, 1, 1),)
    with pytest.raises(ConfigError, match="too small to be halved"):
        plan_stages((8, 4, 4), ISOTROPIC)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"planned_patch": [18, 18, 18]}, "fractions of a voxel"),
        ({"planned_patch": [4, 4, 4]}, "too small"),
        ({"spacing_mm": [1, 1, 0]}, "must be positive"),
    ],
)
def test_what_cannot_be_planned_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config(DynUNetConfig, settings)


def test_one_voxel_at_the_bottom_is_refused() -> None:
    with pytest.raises(ConfigError, match="one voxel"):
        DynUNetConfig().check_patch((32, 32, 16))


def test_the_plain_network_is_monais_with_each_weight_once() -> None:
    config = DynUNetConfig(planned_patch=(16, 16, 16), width=4)
    ours, strides = config.build(4, 3).eval(), config.plan.strides
    theirs = DynUNet(3, 4, 3, [3] * 3, strides, strides[1:], filters=[4, 8, 16]).eval()
    assert count_parameters(ours) == count_parameters(theirs)
    assert len(ours.state_dict()) < len(theirs.state_dict())
    for mine, its in (
        (ours.encoder[0], theirs.input_block),
        (ours.encoder[1], theirs.downsamples[0]),
        (ours.encoder[2], theirs.bottleneck),
        (ours.decoder[0], theirs.upsamples[1]),
        (ours.decoder[1], theirs.upsamples[0]),
        (ours.heads[0], theirs.output_block),
    ):
        mine.load_state_dict(its.state_dict())
    image = torch.randn((1, 4, 16, 8, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(image), theirs(image))


def test_numbers_of_weights() -> None:
    with torch.device("meta"):
        plain = DynUNetConfig().build(4, 3)
        residual = DynUNetConfig(encoder="residual").build(4, 3)
    widths = [32, 64, 128, 256, 320, 320]
    steps = list(pairwise(widths))
    encoder = 27 * (4 * 32 + 32**2 + sum(a * b + b * b for a, b in steps)) + 4 * sum(widths)
    ups = sum(volume * a * b for volume, (a, b) in zip([8, 8, 8, 8, 4], steps, strict=True))
    decoder = ups + sum(27 * 3 * a * a + 4 * a for a in widths[:-1])
    assert count_parameters(plain) == encoder + decoder + 33 * 3
    assert round(count_parameters(residual) / 1e6, 1) == 101.9
    counts = [sum(isinstance(b, ResidualBlock) for b in stage) for stage in residual.encoder]
    assert counts == [1, 3, 4, 6, 6, 6]


def test_four_resolutions_of_six_are_supervised() -> None:
    network = DynUNetConfig(width=1, deep_supervision=True).build(4, 3)
    shapes = [level.shape[2:] for level in network(torch.zeros((1, 4, 64, 32, 32)))]
    assert shapes == [(64, 32, 32), (32, 16, 16), (16, 8, 8), (8, 4, 4)]


def test_a_residual_block_starts_as_its_shortcut() -> None:
    config = DynUNetConfig(planned_patch=(16, 16, 16), width=2, encoder="residual")
    block: nn.Module = config.build(4, 3).encoder[1][1]
    features = torch.randn((1, 4, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.leaky_relu(features, 0.01)
    assert torch.allclose(block(features.clone()), expected)
