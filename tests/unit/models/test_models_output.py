from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bratsml.errors import ConfigError
from bratsml.labels import get_scheme
from bratsml.models.output import OutputConfig
from bratsml.models.registry import count_parameters
from bratsml.models.swinunetr import SwinUNETRConfig
from bratsml.models.unet import UNetConfig

LABELS = torch.tensor([0, 1, 2, 4], dtype=torch.uint8).reshape(1, 1, 4, 1, 1)


def build(kind: str):
    return OutputConfig(kind=kind).build(get_scheme("brats2021"))


def test_region_targets_by_hand() -> None:
    target = build("regions").target(LABELS)
    assert target[0, :, :, 0, 0].tolist() == [[0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 1, 1]]


def test_class_targets_number_the_values_in_order() -> None:
    target = build("classes").target(LABELS)
    assert target.flatten().tolist() == [0, 1, 2, 3]
    assert target.dtype == torch.int64


@pytest.mark.parametrize("kind", ["regions", "classes"])
@given(values=st.lists(st.sampled_from([0, 1, 2, 4]), min_size=1, max_size=8))
def test_a_certain_network_gives_the_label_map_back(kind: str, values: list[int]) -> None:
    output = build(kind)
    label = torch.tensor(values, dtype=torch.uint8).reshape(1, 1, -1, 1, 1)
    target = output.target(label)
    if kind == "classes":
        target = torch.nn.functional.one_hot(target[:, 0], 4).movedim(-1, 1)
    probabilities = output.probabilities(20.0 * (2 * target.float() - 1))[0]
    assert output.label_map(probabilities).flatten().tolist() == values
    expected = get_scheme("brats2021").region_stack(np.array(values)[:, None, None])
    assert (output.region_masks(probabilities).numpy() == expected).all()


def test_probabilities_are_of_one_half_at_zero_and_sum_to_one_over_classes() -> None:
    logits = torch.zeros((1, 4, 1, 1, 1), dtype=torch.bfloat16)
    assert build("classes").probabilities(logits).flatten().tolist() == [0.25] * 4
    regions = build("regions").probabilities(logits[:, :3])
    assert regions.dtype == torch.float32
    assert regions.flatten().tolist() == [0.5] * 3


def test_regions_that_the_scheme_lacks_are_refused() -> None:
    with pytest.raises(ConfigError, match="'RC'"):
        OutputConfig(regions=("ET", "RC")).build(get_scheme("brats2021"))


def test_parameter_counts_are_the_published_ones() -> None:
    assert count_parameters(UNetConfig().build(4, 4)) == 4_811_129
    assert count_parameters(SwinUNETRConfig(feature_size=24).build(4, 4)) == 15_705_646


def test_unet_wants_one_stride_between_stages() -> None:
    with pytest.raises(ValueError, match="one entry fewer"):
        UNetConfig(channels=(4, 8, 16), strides=(2,))


def test_swinunetr_wants_a_feature_size_of_twelves() -> None:
    with pytest.raises(ValueError, match="multiple of 12"):
        SwinUNETRConfig(feature_size=20)


def test_swinunetr_v2_adds_a_residual_block_before_each_of_the_four_stages() -> None:
    plain = SwinUNETRConfig(feature_size=12).build(4, 3)
    second = SwinUNETRConfig(feature_size=12, use_v2=True).build(4, 3)
    # two 3-cubed convolutions without bias, of 12 channels and then twice as many each time
    added = sum(2 * 27 * (12 * 2**stage) ** 2 for stage in range(4))
    assert count_parameters(second) - count_parameters(plain) == added
