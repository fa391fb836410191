"""The contract of every model: a new one is one line in EXAMPLES."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from bratsml.config import with_overrides
from bratsml.errors import ConfigError
from bratsml.models.dynunet import DynUNetConfig
from bratsml.models.mednext import MedNeXtConfig
from bratsml.models.plain_unet import PlainUNetConfig
from bratsml.models.segresnet import SegResNetConfig
from bratsml.models.swinunetr import SwinUNETRConfig
from bratsml.models.unet import UNetConfig
from bratsml.models.unet2d import UNet2dConfig

SMALL_UNET = UNetConfig(channels=(4, 8, 16), strides=(2, 2), res_units=2)


@dataclass(frozen=True)
class Example:
    config: Any
    patches: tuple[tuple[int, int, int], ...]
    """Smallest first, then one whose sides differ."""
    refused: tuple[int, int, int]


EXAMPLES = [
    pytest.param(Example(SMALL_UNET, ((8, 8, 8), (12, 8, 16)), (8, 8, 10)), id="unet"),
    pytest.param(
        Example(UNetConfig(channels=(4, 8), strides=(2,), res_units=0), ((4, 4, 4),), (3, 4, 4)),
        id="unet-plain",
    ),
    pytest.param(
        Example(PlainUNetConfig(channels=(4, 6, 16)), ((8, 4, 4), (12, 8, 16)), (8, 8, 10)),
        id="plain-unet",
    ),
    pytest.param(
        Example(
            PlainUNetConfig(channels=(4, 6), narrow="decoder", upsampling="trilinear"),
            ((4, 2, 2), (4, 8, 6)),
            (4, 3, 2),
        ),
        id="plain-unet-trilinear",
    ),
    pytest.param(
        Example(
            UNet2dConfig(channels=(4, 8, 16), strides=(2, 2)), ((8, 8, 1), (12, 8, 5)), (8, 10, 4)
        ),
        id="unet2d",
    ),
    pytest.param(
        Example(
            DynUNetConfig(planned_patch=(16, 16, 8), width=2), ((8, 4, 4), (4, 12, 8)), (8, 6, 4)
        ),
        id="dynunet",
    ),
    pytest.param(
        Example(
            DynUNetConfig(
                planned_patch=(32, 32, 16), width=2, encoder="residual", deep_supervision=True
            ),
            ((16, 8, 8), (16, 16, 4)),
            (8, 12, 4),
        ),
        id="dynunet-residual-deep-supervision",
    ),
    pytest.param(
        Example(MedNeXtConfig(width=4), ((32, 16, 16), (16, 48, 32)), (24, 32, 32)), id="mednext"
    ),
    pytest.param(
        Example(
            MedNeXtConfig(width=2, size="B", kernel=5, deep_supervision=True),
            ((16, 16, 32),),
            (8, 16, 32),
        ),
        id="mednext-deep-supervision",
    ),
    pytest.param(
        Example(SegResNetConfig(width=2, blocks=(1, 2)), ((4, 2, 2), (6, 8, 4)), (3, 4, 4)),
        id="segresnet",
    ),
    pytest.param(
        Example(
            SegResNetConfig(width=2, blocks=(1, 1, 2), deep_supervision=True),
            ((8, 4, 4),),
            (6, 4, 4),
        ),
        id="segresnet-deep-supervision",
    ),
    pytest.param(
        Example(SwinUNETRConfig(feature_size=12), ((64, 32, 32),), (48, 32, 32)),
        id="swinunetr",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        Example(SwinUNETRConfig(feature_size=12, use_v2=True), ((64, 32, 32),), (48, 32, 32)),
        id="swinunetr-v2",
        marks=pytest.mark.slow,
    ),
]


def seeded(config: Any) -> nn.Module:
    torch.manual_seed(0)
    return config.build(4, 3)


def image_of(shape: tuple[int, int, int], batch: int = 1) -> torch.Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn((batch, 4, *shape), generator=rng)


def all_logits(model: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    """What the network gives: one tensor, or while training one per resolution, finest first."""
    logits = model(image)
    return [logits] if isinstance(logits, torch.Tensor) else list(logits)


def cost(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return torch.stack([level.square().mean() for level in all_logits(model, image)]).sum()


@pytest.mark.parametrize("example", EXAMPLES)
class TestEveryModel:
    def test_logits_have_the_shape_of_the_patch(self, example: Example) -> None:
        model = seeded(example.config)
        for patch in example.patches:
            example.config.check_patch(patch)
            assert all_logits(model, image_of(patch, batch=2))[0].shape == (2, 3, *patch)

    def test_evaluating_gives_one_tensor(self, example: Example) -> None:
        model = seeded(example.config).eval()
        for patch in example.patches:
            assert model(image_of(patch)).shape == (1, 3, *patch)

    def test_coarser_logits_are_of_ever_lower_resolution(self, example: Example) -> None:
        patch = example.patches[-1]
        levels = all_logits(seeded(example.config), image_of(patch))
        wanted = getattr(example.config, "deep_supervision", False)
        assert (len(levels) > 1) == wanted
        for finer, coarser in pairwise(levels):
            assert coarser.numel() < finer.numel()
            for fine, coarse in zip(finer.shape[2:], coarser.shape[2:], strict=True):
                assert fine in (coarse, 2 * coarse)

    def test_a_patch_that_does_not_suit_is_refused_by_name(self, example: Example) -> None:
        with pytest.raises(ConfigError, match="multiples of"):
            example.config.check_patch(example.refused)

    def test_every_weight_gets_a_finite_gradient(self, example: Example) -> None:
        model = seeded(example.config)
        cost(model, image_of(example.patches[-1])).backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None, name
            assert torch.isfinite(weight.grad).all(), name

    def test_state_survives_a_round_trip(self, example: Example) -> None:
        one = seeded(example.config).eval()
        torch.manual_seed(9)
        other = example.config.build(4, 3).eval()
        other.load_state_dict(one.state_dict())
        image = image_of(example.patches[0])
        assert torch.equal(one(image), other(image))

    def test_same_seed_same_network(self, example: Example) -> None:
        one, other = seeded(example.config), seeded(example.config)
        for name, weight in one.state_dict().items():
            assert torch.equal(weight, other.state_dict()[name]), name

    def test_recomputing_activations_changes_neither_result_nor_names(
        self, example: Example
    ) -> None:
        plain = seeded(example.config)
        frugal = with_overrides(example.config, {"checkpointing": True}).build(4, 3)
        frugal.load_state_dict(plain.state_dict())
        image = image_of(example.patches[-1])
        for model in (plain, frugal):
            model.train()
            cost(model, image).backward()
        for (name, a), (other, b) in zip(
            plain.named_parameters(), frugal.named_parameters(), strict=True
        ):
            assert name == other
            assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-7), name

    def test_works_in_channels_last_and_in_bf16(self, example: Example) -> None:
        model = seeded(example.config).to(memory_format=torch.channels_last_3d)
        image = image_of(example.patches[0]).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            levels = all_logits(model, image)
        assert all(torch.isfinite(logits).all() for logits in levels)


def test_recomputing_really_drops_activations() -> None:
    """Fewer bytes are kept for the backward pass."""

    def kept(model: nn.Module) -> int:
        total = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(image_of((16, 16, 16)))
        return total

    plain = seeded(SMALL_UNET)
    frugal = with_overrides(SMALL_UNET, {"checkpointing": True}).build(4, 3)
    assert kept(frugal.train()) < 0.5 * kept(plain.train())
