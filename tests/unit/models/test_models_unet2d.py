"""Slices through a 2-D network: each from itself and its true neighbours, whatever comes along."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from bratsml.config import build_config
from bratsml.errors import ConfigError
from bratsml.inference.window import InferenceConfig, predict_probabilities
from bratsml.labels import get_scheme
from bratsml.models.output import OutputConfig
from bratsml.models.registry import count_parameters, neighbours_of, window_of
from bratsml.models.unet import UNetConfig
from bratsml.models.unet2d import SliceBySlice, UNet2dConfig

SMALL = UNet2dConfig(channels=(4, 8), strides=(2,), res_units=1)


class WeightedSum(nn.Module):
    """One logit per pixel: the sum of its channels, each times its own power of ten."""

    def forward(self, slices: Tensor) -> Tensor:
        weights = 10.0 ** torch.arange(slices.shape[1])
        return (slices * weights.reshape(1, -1, 1, 1)).sum(1, keepdim=True)


def network(**settings: object) -> nn.Module:
    torch.manual_seed(0)
    return build_config(UNet2dConfig, {**SMALL.tree(), **settings}).build(4, 3).eval()


def volume(*shape: int) -> Tensor:
    return torch.randn((1, 4, *shape), generator=torch.Generator().manual_seed(1))


def test_number_of_weights_by_hand() -> None:
    with torch.device("meta"):
        built = UNet2dConfig(channels=(4, 8, 16), strides=(2, 2), res_units=0).build(4, 3)

    def conv(inside: int, outside: int) -> int:
        return 9 * inside * outside + outside  # with its bias

    prelu = 1
    encoder = sum(conv(a, b) + prelu for a, b in pairwise((4, 4, 8)))
    bottom = conv(8, 16) + prelu
    decoder = conv(16 + 8, 4) + prelu + conv(4 + 4, 3)  # the last one gives bare logits
    assert count_parameters(built) == encoder + bottom + decoder


def test_has_a_third_of_the_weights_of_the_net_for_volumes() -> None:
    with torch.device("meta"):
        flat, deep = UNet2dConfig().build(4, 3), UNetConfig().build(4, 3)
    assert count_parameters(flat) / count_parameters(deep) == pytest.approx(1 / 3, abs=0.01)


def test_neighbours_cost_the_first_convolutions_only() -> None:
    with torch.device("meta"):
        alone = UNet2dConfig().build(4, 3)
        among = UNet2dConfig(neighbours=2).build(4, 3)
    # 16 more input channels to 16 filters of 9 pixels: the unit's convolution and its short cut
    assert count_parameters(among) - count_parameters(alone) == 2 * 16 * 16 * 9


def test_equals_monais_network_slice_by_slice() -> None:
    model = network()
    peer = UNet(2, 4, 3, channels=(4, 8), strides=(2,), num_res_units=1, norm="instance").eval()
    peer.load_state_dict(model.network.state_dict())
    image = volume(8, 12, 5)
    for z in range(5):
        assert torch.allclose(model(image)[..., z], peer(image[..., z]), atol=1e-6)


def test_channels_are_the_slices_from_below_to_above() -> None:
    model = SliceBySlice(WeightedSum(), neighbours=1, slice_batch=2).eval()
    image = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 1, 1, 3)
    # z = 0 sees 0, 1, 2; z = 1 sees 1, 2, 3; z = 2 sees 2, 3, 0: units, tens, hundreds
    assert model(image).flatten().tolist() == [210.0, 321.0, 32.0]


def test_modalities_of_a_slice_stay_together() -> None:
    model = SliceBySlice(WeightedSum(), neighbours=1, slice_batch=9).eval()
    image = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).reshape(1, 2, 1, 1, 3)
    assert model(image)[0, 0, 0, 0, 1].item() == 635241.0


@pytest.mark.parametrize("neighbours", [0, 1, 3])
@pytest.mark.parametrize("slice_batch", [1, 2, 64])
def test_a_slice_among_its_neighbours_is_as_in_the_whole_volume(
    neighbours: int, slice_batch: int
) -> None:
    model = network(neighbours=neighbours, slice_batch=slice_batch)
    image = volume(4, 8, 5)
    whole = model(image)
    padded = nn.functional.pad(image, (neighbours, neighbours))
    for z in range(5):
        alone = model(padded[..., z : z + 2 * neighbours + 1])[..., neighbours]
        assert torch.allclose(alone, whole[..., z], atol=1e-6), z


@pytest.mark.parametrize("neighbours", [0, 2])
def test_far_slices_do_not_matter_and_near_ones_do(neighbours: int) -> None:
    model = network(neighbours=neighbours)
    image = volume(4, 8, 9)
    changed = image.clone()
    changed[..., 4] += 1
    differs = (model(image) != model(changed)).flatten(0, 3).any(0)
    assert differs.nonzero().flatten().tolist() == list(range(4 - neighbours, 5 + neighbours))


def test_while_training_the_outer_slices_are_neighbours_only() -> None:
    model = network(neighbours=1)
    image = volume(4, 8, 5)
    evaluated = model(image)
    trained = model.train()(image)  # instance norm: the same in both modes
    assert trained.shape == (1, 3, 4, 8, 3)
    assert torch.allclose(trained, evaluated[..., 1:-1], atol=1e-6)
    with pytest.raises(ValueError, match="2 slices leave none with 1 on either side"):
        model(image[..., :2])


def test_memory_is_bounded_by_the_slices_in_one_pass() -> None:
    seen = []
    model = network(neighbours=1, slice_batch=4)
    model.network.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    model(volume(4, 8, 11))
    assert [tuple(shape) for shape in seen] == [(4, 12, 4, 8), (4, 12, 4, 8), (3, 12, 4, 8)]


def test_a_case_is_predicted_whole_whatever_its_size() -> None:
    """The window spans the depth, odd planes are padded, and windows are blended within slices."""
    output = OutputConfig().build(get_scheme("brats2021"))
    model = network(neighbours=1)
    for shape in [(8, 8, 1), (7, 5, 2), (11, 8, 40)]:
        image = volume(*shape)[0]
        window = window_of(SMALL, (8, 8, 1))
        config = InferenceConfig(flips=(0, 2))
        found = predict_probabilities(model, output, image, window, config, torch.device("cpu"))
        assert found.shape == (3, *shape)
    one_window = predict_probabilities(
        model, output, volume(8, 8, 6)[0], (8, 8, 0), InferenceConfig(), torch.device("cpu")
    )
    assert torch.allclose(one_window, model(volume(8, 8, 6))[0].sigmoid(), atol=1e-5)


def test_the_layout_for_tensor_cores_is_that_of_slices() -> None:
    model = network().to(memory_format=torch.channels_last_3d)
    weight = next(p for p in model.parameters() if p.dim() == 4 and p.shape[2:].numel() > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    image = volume(8, 8, 3)
    expected = network()(image)
    assert torch.allclose(model(image), expected, atol=1e-5)


def test_window_and_neighbours_by_kind_of_model() -> None:
    assert window_of(SMALL, (8, 8, 1)) == (8, 8, 0)
    assert window_of(UNetConfig(), (32, 16, 16)) == (32, 16, 16)
    assert neighbours_of(UNet2dConfig(neighbours=2)) == 2
    assert neighbours_of(UNetConfig()) == 0


def test_what_cannot_be_is_refused() -> None:
    SMALL.check_patch((4, 2, 1))
    with pytest.raises(ConfigError, match="one pixel"):
        UNet2dConfig().check_patch((16, 16, 1))
    with pytest.raises(ConfigError, match="multiples of 16"):
        UNet2dConfig().check_patch((40, 48, 1))
    with pytest.raises(ConfigError, match="one entry fewer"):
        build_config(UNet2dConfig, {"channels": [4, 8], "strides": [2, 2]})


def test_mean_over_slices_is_not_taken() -> None:
    """Instance norm sees one slice at a time: a bright one leaves the others as they were."""
    model = network()
    image = volume(8, 8, 3)
    bright = image.clone()
    bright[..., 0] *= 100
    assert np.allclose(model(image)[..., 1:].detach(), model(bright)[..., 1:].detach(), atol=1e-6)
