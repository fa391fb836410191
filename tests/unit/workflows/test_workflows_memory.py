"""The command that says what fits, with an oracle made by hand."""

from __future__ import annotations

import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bratsml import cli
from bratsml.compute.device import CONTEXT_MB
from bratsml.errors import ConfigError, ResourceError
from bratsml.experiment import Experiment, find_experiment_file
from bratsml.tuning.memory import (
    FRAGMENTATION,
    MemoryEstimate,
    Verdict,
    check_budget,
    predict_memory,
)
from bratsml.workflows import memory as command
from bratsml.workflows.arguments import gigabytes
from bratsml.workflows.memory import Oracle, memory, room_mb
from bratsml.workflows.request import Request, lay_over, typed_layers

PROJECT = Path(__file__).parents[3]


def by_hand(experiment: Experiment) -> MemoryEstimate:
    """100 MB each of weights and gradients, 200 of optimizer, 2 per 1000 voxels of a patch."""
    activations = math.prod(experiment.loader.patch) / 500 * experiment.loader.batch_size
    activations *= 0.5 if experiment.model.checkpointing else 1.0
    return MemoryEstimate(
        weights_mb=100,
        gradients_mb=100,
        optimizer_mb=200,
        activations_mb=activations,
        temporary_mb=0,
        peak_mb=400 + activations,
        inference_peak_mb=100 + activations / 10,
        source="predicted",
    )


def check_by_hand(experiment: Experiment, budget_gb: float) -> Verdict:
    estimate = by_hand(experiment)
    return Verdict(estimate.peak_mb <= budget_gb * 1000, estimate, "by hand")


def no_gpu(experiment: Experiment) -> MemoryEstimate:
    raise ResourceError("there is no GPU here to measure on")


def all_of_it(budget_gb: float) -> float:
    return budget_gb * 1000


ORACLE = Oracle(by_hand, check_by_hand, no_gpu, all_of_it)
UNET = Request(model="unet", overrides=["loader.patch=[96,96,96] loader.batch_size=2"])
# 400 + 2 x 1769 = 3939 MB


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8", 8.0),
        ("8GB", 8.0),
        ("8 gb", 8.0),
        ("8g", 8.0),
        ("8000MB", 8.0),
        ("7.5GiB", 8.05306368),  # 7.5 x 2^30
        ("512MiB", 0.536870912),
        ("0.08tb", 80.0),
    ],
)
def test_budgets_in_many_forms(text: str, expected: float) -> None:
    assert gigabytes("budget", text) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("text", ["", "eight", "-8GB", "0", "8 GBs", "8,5GB", "inf", "nan", "1e9"])
def test_what_is_no_budget_is_said_in_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="budget must be an amount of memory such as 8GB"):
        gigabytes("budget", text)


def test_without_a_budget_the_breakdown_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert memory(UNET, oracle=ORACLE)
    said = capsys.readouterr().out
    for part in ("weights", "gradients", "optimizer state", "activations", "3.9 GB", "Predicted"):
        assert part in said
    assert "fit" not in said


def test_what_fits_says_how_much_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert memory(UNET, budget="8GB", oracle=ORACLE)
    said = capsys.readouterr().out
    assert "fits into 8 GB: 4.1 GB to spare" in said
    # 400 + 2 x 144^3 / 500 = 12344 at 144, 8788 at 128
    assert (
        'the largest patch that fits: 112x112x112 (6.0 GB): --set "loader.patch=[112,112,112]"'
        in said
    )
    assert "largest patch that fits with model.checkpointing: 144x144x144 (6.4 GB)" in said


def test_what_does_not_fit_comes_with_settings_that_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert not memory(UNET, budget="2.2GB", oracle=ORACLE)
    said = " ".join(capsys.readouterr().out.split())
    assert "does not fit into 2.2 GB: training takes 1.7 GB too much" in said
    places = [
        said.index(text)
        for text in (
            "model.checkpointing=true",
            "loader.batch_size=1 train.accumulate=2",
            "loader.patch=[64,64,64]",  # 400 + 2 x 80^3 / 500 = 2448 at 80
        )
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        ("50MB", "the weights alone need 100 MB"),
        ("300MB", "weights, gradients and optimizer state alone need 400 MB"),
    ],
)
def test_a_budget_below_the_parameters_is_called_so(
    budget: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not memory(UNET, budget=budget, oracle=ORACLE)
    said = " ".join(capsys.readouterr().out.split())
    assert sentence in said
    assert "no settings near these fit" in said
    assert "not even the smallest" in said


def test_the_experiment_is_taken_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Experiment] = []

    def predict(experiment: Experiment) -> MemoryEstimate:
        seen.append(experiment)
        return by_hand(experiment)

    memory(Request(model="unet"), oracle=Oracle(predict, check_by_hand, no_gpu, all_of_it))
    assert seen[0].loader.patch == (128, 128, 128)  # the phantom profile has 32


def test_a_measurement_decides(capsys: pytest.CaptureFixture[str]) -> None:
    known: list[MemoryEstimate] = []

    def measure(experiment: Experiment) -> MemoryEstimate:
        estimate = by_hand(experiment)
        known.append(replace(estimate, peak_mb=9000, source="measured"))
        return known[0]

    def check(experiment: Experiment, budget_gb: float) -> Verdict:
        verdict = check_by_hand(experiment, budget_gb)
        is_measured = experiment.loader.batch_size == 2 and not experiment.model.checkpointing
        return Verdict(False, known[0], "measured") if is_measured and known else verdict

    oracle = Oracle(by_hand, check, measure, all_of_it)
    assert not memory(UNET, budget="8GB", measure=True, oracle=oracle)
    said = capsys.readouterr().out
    assert "Measured memory" in said
    assert "does not fit into 8 GB: training takes 1.0 GB too much" in said


def test_what_ran_out_of_memory_before_is_believed(capsys: pytest.CaptureFixture[str]) -> None:
    def check(experiment: Experiment, budget_gb: float) -> Verdict:
        return Verdict(False, by_hand(experiment), "it ran out of 8 GB on 2026-01-31")

    assert not memory(UNET, budget="8", oracle=Oracle(by_hand, check, no_gpu, all_of_it))
    assert "does not fit into 8 GB: it ran out of 8 GB on 2026" in capsys.readouterr().out


def test_a_budget_is_not_all_for_tensors() -> None:
    assert room_mb(0.1) == 0
    left = room_mb(8)
    assert left * (1 + FRAGMENTATION) + CONTEXT_MB == pytest.approx(8000)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(command, "Oracle", lambda: ORACLE)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setattr(sys, "argv", ["bratsml", "memory", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def test_exit_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--model", "unet", "--budget", "64GB") == 0
    assert run(monkeypatch, "--model", "unet", "--budget", "1GB") == 3
    assert run(monkeypatch, "--model", "unet", "--budget", "", "--set", "", "--experiment", "") == 0
    capsys.readouterr()
    assert run(monkeypatch, "--model", "unet", "--budget", "much") == 1
    assert run(monkeypatch, "--model", "unet", "--measure") == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 2
    assert said[1] == "bratsml: there is no GPU here to measure on"


def test_a_run_that_mlflow_has_made_keeps_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logged: dict[str, object] = {}

    class Keeps:
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            logged.update(metrics)

        def set_tags(self, tags: dict[str, str]) -> None:
            logged.update(tags)

        def log_params(self, params: dict[str, object]) -> None:
            logged.update(params)

        def log_table(self, table: object, name: str) -> None:
            logged[name] = table

        def finish(self, status: str) -> None:
            logged["status"] = status

    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    monkeypatch.setattr(command, "open_run", lambda **_: Keeps())
    memory(UNET, budget="2.2GB", oracle=ORACLE)
    assert logged["memory/peak_mb"] == pytest.approx(3939, abs=1)
    assert logged["memory/weights_mb"] == 100
    assert logged["bratsml.fits"] == "false"
    assert logged["budget_gb"] == 2.2
    assert logged["status"] == "FINISHED"
    settings = logged["memory/settings"]["settings"]  # type: ignore[index]
    assert settings[0] == "model.checkpointing=true"


@pytest.mark.slow
def test_what_the_real_oracle_suggests_fits(capsys: pytest.CaptureFixture[str]) -> None:
    small = "model.channels=[8,16] model.strides=[2] loader.patch=[64,64,64]"
    peak = predict_memory(resolve(small)).peak_mb
    budget_gb = (0.8 * peak * (1 + FRAGMENTATION) + CONTEXT_MB) / 1000
    assert not memory(Request(model="unet", overrides=[small]), budget=f"{budget_gb:.6f}GB")
    said = capsys.readouterr().out
    found = re.findall(r'--set "([^"]+)"', said)
    assert len(found) >= 3
    for text in found:  # typed beside the rest, as a user would
        assert check_budget(resolve(small, text), budget_gb).fits
    largest = re.search(r"the largest patch that fits: (\d+)x", said)
    assert largest
    side = int(largest[1])
    assert side < 64
    larger = f"loader.patch=[{side + 2},{side + 2},{side + 2}]"
    assert not check_budget(resolve(small, larger), budget_gb).fits


def resolve(*texts: str) -> Experiment:
    path = find_experiment_file(PROJECT, "unet")
    return lay_over(path, typed_layers(Request(overrides=texts), {}), PROJECT, phantom=False)
