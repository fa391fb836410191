from __future__ import annotations

import pytest
import torch

from bratsml.compute.device import ComputeConfig, choose_device, count_gpus, make_fabric
from bratsml.errors import ConfigError


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_is_the_cpu_without_a_gpu(no_gpu: None) -> None:
    assert choose_device(ComputeConfig()) == torch.device("cpu")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"device": "cuda"}, "compute.device=cuda"),
        ({"precision": "fp16"}, "compute.precision=fp16"),
    ],
)
def test_what_this_machine_cannot_do_is_refused(
    no_gpu: None, settings: dict[str, str], name: str
) -> None:
    with pytest.raises(ConfigError, match=name):
        make_fabric(ComputeConfig(**settings))


def test_the_cpu_alone_uses_no_gpu() -> None:
    assert count_gpus(ComputeConfig(device="cpu")) == 0


def test_bf16_is_mixed_precision_with_weights_in_float32() -> None:
    fabric = make_fabric(ComputeConfig(device="cpu", precision="bf16"))
    model = fabric.setup(torch.nn.Linear(2, 2))
    with fabric.autocast():
        inside = torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype
    assert inside == torch.bfloat16
    assert next(model.parameters()).dtype == torch.float32
    assert model(torch.ones(1, 2)).dtype == torch.float32


def test_threads_are_set_and_left_alone_by_default() -> None:
    before = torch.get_num_threads()
    try:
        make_fabric(ComputeConfig(device="cpu"))
        assert torch.get_num_threads() == before
        make_fabric(ComputeConfig(device="cpu", threads=1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
