"""Predictions for tiny networks, held against counts made by hand and against each other."""

from functools import cache
from typing import Any

import pytest
import torch

from bratsml.config import with_overrides
from bratsml.experiment import Experiment
from bratsml.models.registry import count_parameters
from bratsml.tuning.memory import MemoryEstimate, predict_memory
from bratsml.tuning.memory_cuda import BLOCK_BYTES

TINY = {
    "model": {"channels": [4, 8], "strides": [2], "res_units": 1},
    "loader": {"patch": [16, 16, 16]},
}
SMALL_MODELS = {
    "unet": {"channels": [4, 8], "strides": [2]},
    "unet2d": {"channels": [4, 8], "strides": [2], "neighbours": 1},
    "segresnet": {},
    "dynunet": {},
    "mednext": {},
    "swinunetr": {"feature_size": 12, "attention": "triton"},
}


def tiny(**changes: Any) -> Experiment:
    return with_overrides(with_overrides(Experiment(), TINY), changes)


@cache
def predicted(device: str = "cuda", **changes: Any) -> MemoryEstimate:
    tree: dict[str, Any] = {}
    for name, value in changes.items():
        section, _, setting = name.partition("__")
        tree.setdefault(section, {})[setting] = value
    return predict_memory(tiny(**tree), device=device)  # type: ignore[arg-type]


@cache
def weights_mb() -> float:
    return count_parameters(tiny().build_model(3)) * 4 / 1e6


def slack_mb() -> float:
    """Every tensor fills blocks."""
    count = len(list(tiny().build_model(3).parameters()))
    return count * BLOCK_BYTES / 1e6


def test_weights_and_optimizer_are_those_of_the_network() -> None:
    found = predicted("cpu")
    assert found.weights_mb == pytest.approx(weights_mb(), rel=1e-6)
    # AdamW: two moments and a float32 step per weight tensor
    steps = 4 * len(list(tiny().build_model(3).parameters())) / 1e6
    assert found.optimizer_mb == pytest.approx(2 * weights_mb() + steps, rel=1e-6)


def test_a_gpu_gives_whole_blocks() -> None:
    on_gpu = predicted()
    assert 0 <= on_gpu.weights_mb - weights_mb() < slack_mb()
    assert round(on_gpu.weights_mb * 1e6) % BLOCK_BYTES == 0


def test_the_parts_make_the_peak() -> None:
    found = predicted()
    parts = (
        found.weights_mb,
        found.gradients_mb,
        found.optimizer_mb,
        found.activations_mb,
        found.temporary_mb,
    )
    assert sum(parts) == pytest.approx(found.peak_mb)
    assert found.source == "predicted"


@pytest.mark.parametrize(("kind", "momentum", "copies"), [("sgd", 0.9, 1), ("sgd", 0.0, 0)])
def test_sgd_keeps_its_momentum_only(kind: str, momentum: float, copies: int) -> None:
    found = predicted("cpu", optim__kind=kind, optim__momentum=momentum)
    assert found.optimizer_mb == pytest.approx(copies * weights_mb(), rel=1e-6)


def test_an_average_of_weights_is_another_copy() -> None:
    plain = predicted("cpu")
    averaged = predicted("cpu", train__ema_decay=0.99)
    assert averaged.optimizer_mb - plain.optimizer_mb == pytest.approx(weights_mb(), rel=1e-6)


def test_twice_the_batch_keeps_twice_the_activations() -> None:
    one, two = predicted(), predicted(loader__batch_size=2)
    assert two.activations_mb / one.activations_mb == pytest.approx(2, rel=0.02)
    assert two.weights_mb == one.weights_mb


def test_accumulating_keeps_gradients_but_no_more_activations() -> None:
    one, two = predicted(), predicted(train__accumulate=2)
    assert two.gradients_mb >= one.gradients_mb
    assert two.gradients_mb == pytest.approx(weights_mb(), abs=slack_mb())
    assert two.activations_mb == pytest.approx(one.activations_mb, rel=0.05)


def test_sixteen_bits_take_less_than_thirty_two() -> None:
    assert predicted(compute__precision="bf16").activations_mb < predicted().activations_mb


def test_checkpointing_keeps_less() -> None:
    assert predicted(model__checkpointing=True).activations_mb < 0.7 * predicted().activations_mb


def test_fewer_modalities_make_a_smaller_batch() -> None:
    one = predict_memory(tiny(data={"modalities": ["t1c"]}))
    assert one.peak_mb < predicted().peak_mb
    assert one.weights_mb < predicted().weights_mb


def test_inference_grows_with_its_windows_while_training_does_not() -> None:
    more = predicted(inference__window_batch=4)
    assert more.inference_peak_mb > 1.5 * predicted().inference_peak_mb
    assert more.peak_mb == predicted().peak_mb


def test_predicting_leaves_real_tensors_alone() -> None:
    predict_memory(tiny(optim={"kind": "adam"}))
    assert torch.ones(3).sum().item() == 3.0
    network = tiny().build_model(3).to(torch.float64)
    assert next(network.parameters()).dtype == torch.float64


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL_MODELS)
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_network_can_be_predicted(kind: str, device: Any) -> None:
    changes = {
        "model": {"kind": kind, **SMALL_MODELS[kind]},
        "loader": {"patch": [64, 32, 32]},
        "compute": {"precision": "bf16"},
    }
    experiment = with_overrides(Experiment(), changes)
    found = predict_memory(experiment, device=device)
    network = experiment.build_model(3)
    block = BLOCK_BYTES if device == "cuda" else 1
    held = (*network.parameters(), *network.buffers())
    real = sum(-(-tensor.nbytes // block) * block for tensor in held) / 1e6
    assert found.weights_mb == pytest.approx(real, rel=1e-3)
    assert found.activations_mb > 1


@pytest.mark.slow
def test_attention_that_stores_no_weights_takes_less() -> None:
    peaks = [
        predict_memory(
            with_overrides(
                Experiment(),
                {
                    "model": {"kind": "swinunetr", "feature_size": 12, "attention": name},
                    "loader": {"patch": [64, 64, 64]},
                },
            )
        ).peak_mb
        for name in ("triton", "sdpa", "reference")
    ]
    assert peaks == sorted(peaks)
    assert peaks[0] < 0.7 * peaks[2]
