"""Verdicts under a budget, and what is remembered of trainings that ran out of memory."""

import json
from pathlib import Path
from typing import Any

import pytest

from bratsml.config import with_overrides
from bratsml.errors import ConfigError, ResourceError
from bratsml.experiment import Experiment
from bratsml.tuning import memory, memory_cache
from bratsml.tuning.memory import MemoryEstimate, check_budget, record_out_of_memory
from bratsml.tuning.memory_key import key_of, takes_at_least


def estimate(peak_mb: float, inference_mb: float = 10.0) -> MemoryEstimate:
    return MemoryEstimate(1.0, 1.0, 2.0, peak_mb - 5.0, 1.0, peak_mb, inference_mb, "predicted")


@pytest.fixture(autouse=True)
def no_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every experiment takes 2 GB; records go to a folder of the test."""
    monkeypatch.setattr(memory, "predict_memory", lambda *_, **__: estimate(2000.0))
    monkeypatch.setenv("BRATSML_MEMORY_CACHE", str(tmp_path / "records"))


def experiment(**changes: Any) -> Experiment:
    return with_overrides(Experiment(), {"loader": {"patch": [64, 64, 64]}, **changes})


# 2 GB, 5 % more for fragmentation, 0.5 GB for the context: 2.6 GB
@pytest.mark.parametrize(("budget_gb", "fits"), [(2.61, True), (2.59, False)])
def test_fragmentation_and_context_are_counted(budget_gb: float, fits: bool) -> None:
    verdict = check_budget(experiment(), budget_gb)
    assert verdict.fits is fits
    for number in ("2.00 GB", "5%", "0.5 GB", "2.60 GB", f"{budget_gb:g} GB"):
        assert number in verdict.reason


def test_a_window_larger_than_training_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "predict_memory", lambda *_, **__: estimate(1000.0, 3000.0))
    verdict = check_budget(experiment(), 3.0)
    assert not verdict.fits
    assert "inference takes 3.00 GB" in verdict.reason


def test_a_measurement_counts_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = memory.Reading(1.0, 1.0, 2.0, 1000.0, 1.0, 1005.0, 10.0, 1400.0)
    monkeypatch.setattr(memory, "find_reading", lambda *_: reading)
    verdict = check_budget(experiment(), 2.0)
    assert verdict.fits
    assert verdict.estimate.source == "measured"
    # what the allocator took is more than the peak and a share
    assert not check_budget(experiment(), 1.89).fits


@pytest.mark.parametrize("budget_gb", [0.0, -1.0, float("nan")])
def test_a_budget_is_positive(budget_gb: float) -> None:
    with pytest.raises(ConfigError, match="is not positive"):
        check_budget(experiment(), budget_gb)


def test_what_ran_out_is_not_tried_again() -> None:
    assert check_budget(experiment(), 8.0).fits
    record_out_of_memory(experiment(), 8.0)
    verdict = check_budget(experiment(), 8.0)
    assert not verdict.fits
    assert "ran out of 8 GB" in verdict.reason
    assert not check_budget(experiment(), 6.0).fits
    assert check_budget(experiment(), 10.0).fits


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"loader": {"patch": [96, 64, 64]}}, False),
        ({"loader": {"patch": [64, 64, 64], "batch_size": 2}}, False),
        ({"loader": {"patch": [96, 64, 48]}}, True),
        ({"model": {"channels": [32, 64, 128, 256, 512]}}, False),
        ({"model": {"checkpointing": True}}, True),
        ({"optim": {"lr": 0.1, "weight_decay": 0.1}, "seed": 3}, False),
        ({"optim": {"kind": "sgd"}}, True),
        ({"compute": {"precision": "bf16"}}, True),
        ({"compute": {"vram_gb": 8.0}}, False),
    ],
)
def test_a_record_speaks_against_all_that_is_no_smaller(
    changes: dict[str, Any], fits: bool
) -> None:
    record_out_of_memory(experiment(), 8.0)
    assert check_budget(experiment(**changes), 8.0).fits is fits


def test_another_version_of_torch_starts_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    record_out_of_memory(experiment(), 8.0)
    monkeypatch.setattr(memory_cache.torch, "__version__", "99.0")
    assert check_budget(experiment(), 8.0).fits


def test_a_damaged_record_is_passed_over(tmp_path: Path) -> None:
    record_out_of_memory(experiment(), 8.0)
    (path,) = (tmp_path / "records").glob("ran_out_*.json")
    for content in ("{", "[]", '{"budget_gb": 8}', json.dumps({"key": 1, "budget_gb": 8.0})):
        path.write_text(content)
        assert check_budget(experiment(), 8.0).fits


def test_a_folder_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BRATSML_MEMORY_CACHE", str(tmp_path / "file"))
    with pytest.raises(ResourceError):
        record_out_of_memory(experiment(), 8.0)
    assert check_budget(experiment(), 8.0).fits


def test_the_same_settings_are_at_least_as_large_as_themselves() -> None:
    key = key_of(experiment(), 4)
    assert takes_at_least(key, key)


def test_dropout_counts_as_on_or_off() -> None:
    keys = [key_of(experiment(model={"dropout": share}), 4) for share in (0.0, 0.1, 0.3)]
    assert keys[0] != keys[1] == keys[2]


def test_another_kind_of_network_is_not_compared() -> None:
    unet = key_of(experiment(), 4)
    swin = key_of(experiment(model={"kind": "swinunetr"}), 4)
    assert not takes_at_least(unet, swin)
    assert not takes_at_least(swin, unet)
