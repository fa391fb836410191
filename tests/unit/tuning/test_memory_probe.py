"""The probe's protocol, with a module in the place of the real one; none of it needs a GPU."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bratsml.errors import ResourceError
from bratsml.experiment import Experiment
from bratsml.tuning.memory import measure_memory
from bratsml.tuning.memory_probe import ask_probe, find_reading, take_reading

Fake = Callable[[str], str]
"""Makes a probe that ends with these lines; returns the module's name."""

FAKE = """
import json, sys
request = json.load(open(sys.argv[1]))
side = request["experiment"]["loader"]["patch"][0]
numbers = dict(weights_mb=1, gradients_mb=2, optimizer_mb=3, activations_mb=4, temporary_mb=5,
               peak_mb=15 + side, inference_mb=6, reserved_mb=200)
numbers["inference_peak_mb"] = numbers.pop("inference_mb") + request["in_channels"]
open("calls.txt", "a").write("x")
{then}
"""
ANSWER = 'json.dump({"reading": numbers}, open(sys.argv[2], "w"))'


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Fake:
    """Makes a module that a probe's process finds; that process works in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRATSML_MEMORY_CACHE", str(tmp_path / "records"))

    def make(then: str) -> str:
        (tmp_path / "fake_probe.py").write_text(FAKE.format(then=then))
        return "fake_probe"

    return make


def calls(folder: Path) -> int:
    return len((folder / "calls.txt").read_text())


def pretend_a_gpu(monkeypatch: pytest.MonkeyPatch, name: str = "Pretended GPU") -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)


def test_the_answer_of_the_process_is_read(probe: Fake) -> None:
    reading = ask_probe(Experiment(), 3, probe(ANSWER))
    assert (reading.peak_mb, reading.inference_peak_mb, reading.reserved_mb) == (143, 9, 200)


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ('json.dump({"error": "it is full"}, open(sys.argv[2], "w"))', "it is full"),
        ("raise RuntimeError('CUDA error: gone')", "RuntimeError: CUDA error: gone"),
        ("sys.exit(7)", "exit status 7"),
    ],
)
def test_a_probe_that_fails_says_why_in_a_sentence(probe: Fake, then: str, told: str) -> None:
    with pytest.raises(ResourceError, match=f"memory could not be measured: {told}"):
        ask_probe(Experiment(), 4, probe(then))


def test_a_probe_that_hangs_is_stopped(probe: Fake) -> None:
    with pytest.raises(ResourceError, match="stopped after 1 seconds"):
        ask_probe(Experiment(), 4, probe("import time; time.sleep(60)"), timeout_s=1)


def test_a_measurement_is_remembered_by_gpu(
    probe: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = probe(ANSWER)
    pretend_a_gpu(monkeypatch)
    first = take_reading(Experiment(), 4, module)
    assert take_reading(Experiment(), 4, module) == first
    assert calls(tmp_path) == 1
    pretend_a_gpu(monkeypatch, "Another GPU")
    assert find_reading(Experiment(), 4) is None
    take_reading(Experiment(), 4, module)
    assert calls(tmp_path) == 2


def test_a_measurement_of_another_version_is_taken_anew(
    probe: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = probe(ANSWER)
    pretend_a_gpu(monkeypatch)
    take_reading(Experiment(), 4, module)
    (path,) = (tmp_path / "records").glob("measured_*.json")
    path.write_text('{"peak": 1}')
    assert find_reading(Experiment(), 4) is None


def test_without_a_gpu_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="on a GPU only and this machine has none"):
        measure_memory(Experiment())
    assert find_reading(Experiment(), 4) is None
