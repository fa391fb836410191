from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from bratsml.inference.window import InferenceConfig, mirror_subsets, predict_probabilities
from bratsml.labels import get_scheme
from bratsml.models.output import OutputConfig

OUTPUT = OutputConfig().build(get_scheme("brats2021"))
CPU = torch.device("cpu")


class FirstThree(nn.Module):
    """Logits are the first three input channels: what comes out must be what went in."""

    def forward(self, image: Tensor) -> Tensor:
        return image[:, :3].clone()  # a view would let the blending write into its input


class Position(nn.Module):
    """Logits grow along the first axis of the window: not symmetric under mirroring."""

    def forward(self, image: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, image.shape[2]).reshape(1, 1, -1, 1, 1)
        return (image[:, :3] * 0 + ramp).contiguous()


def volume(*shape: int) -> Tensor:
    return torch.randn((4, *shape), generator=torch.Generator().manual_seed(0))


def predict(model: nn.Module, image: Tensor, window: tuple, **settings: object) -> Tensor:
    config = InferenceConfig(**settings)
    return predict_probabilities(model, OUTPUT, image, window, config, CPU)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(3, 14)] * 3),
    window=st.tuples(*[st.sampled_from([4, 6, 8])] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    blend=st.sampled_from(["gaussian", "constant"]),
)
def test_windows_cover_every_voxel_of_any_volume(shape, window, overlap, blend) -> None:
    image = volume(*shape)
    result = predict(FirstThree(), image, window, overlap=overlap, blend=blend)
    assert result.shape == (3, *shape)
    assert torch.allclose(result, image[:3].sigmoid(), atol=1e-5)


def test_equals_monais_inferer() -> None:
    torch.manual_seed(0)
    model = nn.Conv3d(4, 3, 3, padding=1).eval()
    image = volume(11, 9, 13)
    with torch.no_grad():
        peer = sliding_window_inference(image[None], (8, 8, 8), 2, model, 0.5, "gaussian")
    assert torch.allclose(predict(model, image, (8, 8, 8)), peer[0].sigmoid(), atol=1e-6)


def test_mirrored_passes_are_turned_back_and_averaged() -> None:
    result = predict(Position(), volume(8, 8, 8), (8, 8, 8), flips=(0,))
    ramp = torch.linspace(-1, 1, 8)
    expected = (ramp.sigmoid() + ramp.flip(0).sigmoid()) / 2
    assert torch.allclose(result[0, :, 0, 0], expected, atol=1e-6)


def test_all_subsets_of_three_axes_make_eight_passes() -> None:
    assert len(list(mirror_subsets((0, 1, 2)))) == 8
    assert list(mirror_subsets(())) == [()]


def test_training_mode_comes_back_and_the_result_is_an_ordinary_tensor() -> None:
    model = FirstThree().train()
    result = predict(model, volume(4, 4, 4), (4, 4, 4))
    assert model.training
    assert not result.is_inference()
    result.mul_(2)


@pytest.mark.parametrize("flips", [(3,), (0, 0)])
def test_axes_that_are_none_are_refused(flips: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="distinct axes"):
        InferenceConfig(flips=flips)
