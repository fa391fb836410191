"""What a training really takes on this machine's GPU: two steps and a window, run and measured.

Run as ``python -m bratsml.tuning.memory_probe request.json answer.json`` it is the probe itself. A
process of its own has nothing else on the GPU, and running out of memory harms nobody.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bratsml.compute.device import choose_device, seed_everything
from bratsml.config import build_config, with_overrides
from bratsml.errors import BratsmlError, ResourceError
from bratsml.experiment import Experiment
from bratsml.files import read_json, write_json
from bratsml.models.attention.triton_op import KERNEL_VERSION
from bratsml.tuning.memory_cache import find_measurement, note_measurement
from bratsml.tuning.memory_key import key_of
from bratsml.tuning.memory_rehearsal import Rehearsal, build_network, set_up

MODULE = "bratsml.tuning.memory_probe"
LONGEST_SECONDS = 900.0
"""Compiling kernels, and measuring which attention is fastest, takes minutes at worst."""
_MB = 1e6


@dataclass(frozen=True)
class Reading:
    """What was measured, in MB (1e6 bytes), under the names of an estimate.

    Activations and gradients are those at the end of the last forward pass, ``temporary_mb`` is
    all that the peak holds beyond.
    """

    weights_mb: float
    gradients_mb: float
    optimizer_mb: float
    activations_mb: float
    temporary_mb: float
    peak_mb: float
    inference_peak_mb: float
    reserved_mb: float


def find_reading(experiment: Experiment, in_channels: int) -> Reading | None:
    """What was measured before on this machine's GPU; ``None`` also where there is none."""
    if not _has_gpu(experiment):
        return None
    content = find_measurement(_name(experiment, in_channels))
    try:
        return Reading(**content) if content else None
    except TypeError:  # written by another version
        return None


def take_reading(experiment: Experiment, in_channels: int, module: str = MODULE) -> Reading:
    """What was measured before, or else measure now.

    Args:
        module: Does the work of :func:`main`; the real probe unless a test replaces it.

    Raises:
        ResourceError: There is no GPU, or its memory did not suffice, or the probe failed.
    """
    if not _has_gpu(experiment):
        raise ResourceError(
            "memory can be measured on a GPU only and this machine has none to use; "
            "the prediction needs none"
        )
    known = find_reading(experiment, in_channels)
    if known is not None:
        return known
    reading = ask_probe(experiment, in_channels, module)
    note_measurement(_name(experiment, in_channels), asdict(reading))
    return reading


def ask_probe(
    experiment: Experiment,
    in_channels: int,
    module: str = MODULE,
    timeout_s: float = LONGEST_SECONDS,
) -> Reading:
    """Run the probe in a process of its own and read its answer.

    Raises:
        ResourceError: It ran out of memory, took too long or failed.
    """
    with tempfile.TemporaryDirectory(prefix="bratsml_probe_") as name:
        request, answer = Path(name) / "request.json", Path(name) / "answer.json"
        write_json(request, {"experiment": experiment.tree(), "in_channels": in_channels})
        command = [sys.executable, "-m", module, str(request), str(answer)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ResourceError(
                f"the memory probe was stopped after {timeout_s:g} seconds; measure on an idle GPU"
            ) from error
        content = read_json(answer) if answer.is_file() else {}
    if "reading" in content:
        return Reading(**content["reading"])
    lines = done.stderr.strip().splitlines()
    told = content.get("error") or (lines[-1] if lines else f"exit status {done.returncode}")
    raise ResourceError(f"memory could not be measured: {told}")


def rehearse(rehearsal: Rehearsal, device: torch.device) -> Reading:
    """Run steps and window on a GPU and read its allocator."""
    cuda = torch.cuda
    at_forward_end: list[tuple[int, int]] = []

    def note(*_: Any) -> None:
        grads = [w.grad for w in rehearsal.training.model.parameters() if w.grad is not None]
        at_forward_end.append((cuda.memory_allocated(device), _bytes(grads)))

    hook = rehearsal.training.step.loss.register_forward_hook(note)
    rehearsal.make_optimizer_state()
    rehearsal.steps(1)
    cuda.reset_peak_memory_stats(device)
    rehearsal.steps(1)
    cuda.synchronize(device)
    hook.remove()
    peak, reserved = cuda.max_memory_allocated(device), cuda.max_memory_reserved(device)
    cuda.reset_peak_memory_stats(device)
    rehearsal.window()
    cuda.synchronize(device)
    inference = cuda.max_memory_allocated(device)
    reserved = max(reserved, cuda.max_memory_reserved(device))
    weights, optimizer = _standing(rehearsal)
    held, gradients = at_forward_end[-1]
    return Reading(
        weights_mb=weights / _MB,
        gradients_mb=gradients / _MB,
        optimizer_mb=optimizer / _MB,
        activations_mb=(held - gradients - weights - optimizer) / _MB,
        temporary_mb=(peak - held) / _MB,
        peak_mb=peak / _MB,
        inference_peak_mb=inference / _MB,
        reserved_mb=reserved / _MB,
    )


def _standing(rehearsal: Rehearsal) -> tuple[int, int]:
    """Bytes of weights and of the optimizer's state, the moving average included."""
    training = rehearsal.training
    weights = _bytes([*training.model.parameters(), *training.model.buffers()])
    states = training.optimizer.optimizer.state.values()
    kept = [value for state in states for value in state.values()]
    moving = training.step.average
    if moving is not None:
        kept += list(moving.average.values())
    return weights, _bytes(v for v in kept if torch.is_tensor(v) and v.is_cuda)


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _has_gpu(experiment: Experiment) -> bool:
    return experiment.compute.device != "cpu" and torch.cuda.is_available()


def _name(experiment: Experiment, in_channels: int) -> list[Any]:
    """All that a measurement depends on."""
    return [
        key_of(experiment, in_channels),
        torch.cuda.get_device_name(),
        torch.__version__,
        KERNEL_VERSION,
    ]


def main() -> None:
    """Answer a request; every error becomes an answer."""
    request, answer = Path(sys.argv[1]), Path(sys.argv[2])
    content = read_json(request)
    experiment = build_config(Experiment, content["experiment"])
    # the whole card: what is asked is how much it takes
    experiment = with_overrides(experiment, {"compute": {"vram_gb": None, "device": "cuda"}})
    try:
        device = choose_device(experiment.compute)
        seed_everything(experiment.seed)
        network = build_network(experiment, content["in_channels"])
        reading = rehearse(set_up(experiment, network, content["in_channels"]), device)
    except torch.cuda.OutOfMemoryError:
        total = torch.cuda.get_device_properties(0).total_memory
        write_json(answer, {"error": f"it takes more than the {total / 1e9:.1f} GB of this GPU"})
    except BratsmlError as error:
        write_json(answer, {"error": str(error)})
    else:
        write_json(answer, {"reading": asdict(reading)})


if __name__ == "__main__":
    main()
