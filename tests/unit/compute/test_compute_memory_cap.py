"""The cap on GPU memory, with torch.cuda replaced: none of it needs a GPU."""

from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from bratsml.compute.device import ComputeConfig, cap_memory
from bratsml.config import with_overrides
from bratsml.errors import ConfigError
from bratsml.experiment import Experiment

CUDA = torch.device("cuda")


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The shares that a card of 80 GB is told."""
    told: list[float] = []
    card = SimpleNamespace(total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, _: told.append(share)
    )
    return told


@pytest.mark.parametrize(
    ("vram_gb", "share"),
    [
        (8.5, 0.1),  # 0.5 GB are CUDA's own: 8 of 80
        (80.0, 79.5 / 80),
        (80.5, 1.0),
        (200.0, 1.0),  # no more than the card has
        (None, 1.0),
    ],
)
def test_the_allocator_gets_what_the_context_leaves(
    shares: list[float], vram_gb: float | None, share: float
) -> None:
    cap_memory(ComputeConfig(vram_gb=vram_gb), CUDA)
    assert shares == [pytest.approx(share)]


def test_a_limit_that_the_context_fills_is_refused(shares: list[float]) -> None:
    with pytest.raises(ConfigError, match=r"compute\.vram_gb=0\.5 leaves nothing beside"):
        cap_memory(ComputeConfig(vram_gb=0.5), CUDA)
    assert not shares


def test_a_cpu_has_no_limit(shares: list[float]) -> None:
    cap_memory(ComputeConfig(vram_gb=0.1), torch.device("cpu"))
    assert not shares


@pytest.mark.parametrize("vram_gb", [0.0, -8.0])
def test_a_limit_is_positive(vram_gb: float) -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        ComputeConfig(vram_gb=vram_gb)


def test_the_limit_decides_no_result() -> None:
    capped = with_overrides(Experiment(), {"compute": {"vram_gb": 8}})
    assert capped.what_decides_the_result() == Experiment().what_decides_the_result()
