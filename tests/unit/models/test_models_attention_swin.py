"""Backends inside MONAI's network: names of weights, what is refused, what is told."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from monai.networks.nets.swin_unetr import BasicLayer
from pydantic import ValidationError

from bratsml.errors import ConfigError
from bratsml.models.attention import select
from bratsml.models.attention.swin import describe_attention, use_backend
from bratsml.models.swinunetr import SwinUNETRConfig
from bratsml.models.unet import UNetConfig


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(select.CACHE_VARIABLE, str(tmp_path / "attention.json"))


def stage(backend: str, recompute: bool = False, drop: float = 0.0) -> BasicLayer:
    """Two Swin blocks, the second shifted, of 2 heads of 4 channels."""
    torch.manual_seed(0)
    made = BasicLayer(
        8, 2, 2, (2, 2, 2), [0.0, 0.0], qkv_bias=True, use_checkpoint=recompute, attn_drop=drop
    )
    use_backend(made, backend)
    return made


IMAGE = torch.randn((2, 8, 4, 2, 3), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("backend", ["auto", "sdpa", "flex", "triton"])
def test_weights_load_and_save_as_monais(backend: str) -> None:
    ours = SwinUNETRConfig(feature_size=12, attention=backend).build(4, 3)
    monais = SwinUNETRConfig(feature_size=12, attention="reference").build(4, 3)
    ours.load_state_dict(monais.state_dict(), strict=True)
    assert list(ours.state_dict()) == list(monais.state_dict())
    for name, tensor in monais.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


@pytest.mark.parametrize("backend", ["auto", "sdpa"])
@pytest.mark.parametrize("shape", [(2, 8, 4, 2, 3), (1, 8, 2, 2, 2), (1, 8, 1, 4, 5)])
def test_a_stage_is_monais(backend: str, shape: tuple[int, ...]) -> None:
    """With padding, without shift, and with windows cut short."""
    image = torch.randn(shape)
    found, expected = stage(backend)(image), stage("reference")(image)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_stage_in_two_dimensions_is_monais() -> None:
    image = torch.randn((2, 8, 6, 5))
    found = []
    for backend in ("reference", "sdpa"):
        torch.manual_seed(0)
        made = BasicLayer(8, 2, 2, (2, 2), [0.0, 0.0], qkv_bias=True)
        use_backend(made, backend)
        found.append(made(image))
    assert torch.allclose(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["auto", "sdpa"])
def test_recomputing_gives_the_same_gradients_also_at_first_use(backend: str) -> None:
    """Choosing and noting happen in the first forward pass only, and must leave no trace in it."""
    gradients = []
    for recompute in (True, False):
        made = stage(backend, recompute, drop=0.2)
        torch.manual_seed(1)
        made(IMAGE).square().sum().backward()
        gradients.append([weight.grad for weight in made.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_describes_what_ran() -> None:
    made = stage("sdpa")
    assert describe_attention(made) == {"attention.requested": "sdpa"}
    made(IMAGE).sum().backward()
    assert describe_attention(made)["attention.training"] == "sdpa (math)"
    averaged = copy.deepcopy(made).eval()  # as validation does with averaged weights
    with torch.no_grad():
        averaged(IMAGE)
    assert describe_attention(made)["attention.inference"].startswith("sdpa (")


def test_describes_which_stages_differ() -> None:
    made = stage("auto")
    record = made.blocks[0].attn.record
    record.ran = {("training", "1"): "triton 64x32x4", ("training", "1 shifted"): "reference"}
    assert describe_attention(made) == {
        "attention.requested": "auto",
        "attention.training": "triton 64x32x4 in stages 1; reference in stages 1 shifted",
    }


def test_describes_monais_own_and_networks_without_windows() -> None:
    assert describe_attention(stage("reference"))["attention.kernel"] == "MONAI's own"
    assert describe_attention(UNetConfig(channels=(4, 8), strides=(2,)).build(4, 3)) == {}


def test_what_cannot_run_is_refused_by_name() -> None:
    if torch.cuda.is_available():
        pytest.skip("is about machines without a GPU")
    cpu = torch.device("cpu")
    with pytest.raises(ConfigError, match=r"attention=triton cannot .* needs a CUDA GPU"):
        SwinUNETRConfig(attention="triton").check_device(cpu)
    with pytest.raises(ConfigError, match=r"attention=flex cannot .* no backward pass on a CPU"):
        SwinUNETRConfig(attention="flex").check_device(cpu)
    with pytest.raises(ConfigError, match=r"use auto, or sdpa"):
        stage("triton")(IMAGE)
    SwinUNETRConfig(attention="auto").check_device(cpu)


def test_flex_with_dropped_attention_weights_is_refused() -> None:
    with pytest.raises(ValidationError, match="flex cannot drop"):
        SwinUNETRConfig(attention="flex", attn_drop_rate=0.1)


def test_a_patch_with_one_voxel_at_the_deepest_stage_is_refused() -> None:
    config = SwinUNETRConfig(feature_size=12)
    with pytest.raises(ConfigError, match="one of them 64 or more"):
        config.check_patch((32, 32, 32))
    config.check_patch((32, 64, 32))
