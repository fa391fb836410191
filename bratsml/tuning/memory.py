"""The memory oracle: what a training will take on a GPU, and whether that fits into a budget.

Predictions come from a trace with tensors that have shapes but no values
(:mod:`bratsml.tuning.memory_trace`), on any machine; measurements from two real steps on a GPU
(:mod:`bratsml.tuning.memory_probe`). MB are 1e6 bytes, GB 1e9.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from bratsml.compute.device import CONTEXT_MB
from bratsml.errors import ConfigError
from bratsml.experiment import Experiment
from bratsml.files import sha256_of_json
from bratsml.tuning.memory_cache import find_out_of_memory, machine, note_out_of_memory
from bratsml.tuning.memory_key import key_of
from bratsml.tuning.memory_probe import Reading, find_reading, take_reading
from bratsml.tuning.memory_trace import Device, trace

Source = Literal["predicted", "measured"]

FRAGMENTATION = 0.05
"""Share of the peak that the allocator holds beside it, because free pieces do not fit together."""
_MB = 1e6


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory at the fullest moment of a training step, in MB (1e6 bytes).

    The five parts together are ``peak_mb``: what tensors and kernels hold, as PyTorch's allocator
    counts it (``torch.cuda.max_memory_allocated``).

    Attributes:
        weights_mb: Weights and buffers.
        gradients_mb: Of the weights, as far as they are there at that moment.
        optimizer_mb: The optimizer's state, and the moving average of weights.
        activations_mb: What the forward pass keeps for the backward pass, the batch included.
        temporary_mb: What operations take while they run, and gradients of activations.
        peak_mb: Of training.
        inference_peak_mb: Of one sliding window, with the training's state still there, as in
            validation.
        source: How the numbers were found.
        reserved_mb: What the allocator took from the device; ``None`` when predicted.
    """

    weights_mb: float
    gradients_mb: float
    optimizer_mb: float
    activations_mb: float
    temporary_mb: float
    peak_mb: float
    inference_peak_mb: float
    source: Source
    reserved_mb: float | None = None

    @property
    def needed_mb(self) -> float:
        """The larger of both peaks."""
        return max(self.peak_mb, self.inference_peak_mb)


@dataclass(frozen=True)
class Verdict:
    """Whether an experiment fits into a budget.

    Attributes:
        reason: One sentence with the numbers.
    """

    fits: bool
    estimate: MemoryEstimate
    reason: str


_predicted: dict[str, MemoryEstimate] = {}


def predict_memory(
    experiment: Experiment, *, in_channels: int | None = None, device: Device = "cuda"
) -> MemoryEstimate:
    """Trace a training step and a window; seconds on any machine, nothing is computed.

    Loss, optimizer, precision, checkpointing, accumulation, averaging of weights and deep
    supervision are those of the experiment.

    Args:
        in_channels: ``None`` for the experiment's modalities.
        device: Whose kernels and allocator to assume.
    """
    channels = in_channels or len(experiment.data.modalities)
    name = sha256_of_json([key_of(experiment, channels), device])
    if name not in _predicted:
        found = trace(experiment, channels, device)
        parts = {
            f"{part}_mb": num_bytes / _MB for part, num_bytes in found.training.by_category.items()
        }
        _predicted[name] = MemoryEstimate(
            **parts,
            peak_mb=found.training.total / _MB,
            inference_peak_mb=found.inference.total / _MB,
            source="predicted",
        )
    return _predicted[name]


def measure_memory(experiment: Experiment, *, in_channels: int | None = None) -> MemoryEstimate:
    """Two training steps and a window on this machine's GPU, in a process of their own.

    Remembered by GPU, version of PyTorch and all settings that matter.

    Raises:
        ResourceError: There is no GPU, or the experiment ran out of its memory.
    """
    channels = in_channels or len(experiment.data.modalities)
    return _as_estimate(take_reading(experiment, channels))


def check_budget(experiment: Experiment, budget_gb: float) -> Verdict:
    """Whether training and inference fit into so much GPU memory.

    What is counted: the peak of the allocator, :data:`FRAGMENTATION` of it, and what CUDA takes
    for itself (:data:`~bratsml.compute.device.CONTEXT_MB`). A measurement on this machine's GPU
    counts for more than a prediction, a training that ran out of memory for more than either.

    Args:
        budget_gb: In GB (1e9 bytes).

    Raises:
        ConfigError: The budget is not positive.
    """
    if not budget_gb > 0:
        raise ConfigError(f"a memory budget of {budget_gb:g} GB is not positive; give e.g. 8")
    channels = len(experiment.data.modalities)
    reading = find_reading(experiment, channels)
    estimate = _as_estimate(reading) if reading else predict_memory(experiment)
    ran_out = find_out_of_memory(
        key_of(experiment, channels), budget_gb, machine(experiment.compute)
    )
    if ran_out is not None:
        return Verdict(
            False,
            estimate,
            f"on {ran_out.day} a training no larger than this one ran out of "
            f"{ran_out.budget_gb:g} GB ({_peak(estimate)})",
        )
    counted = counted_mb(estimate)
    fits = counted <= budget_gb * 1000
    return Verdict(
        fits,
        estimate,
        f"{_peak(estimate)}, with {FRAGMENTATION:.0%} for fragmentation and "
        f"{CONTEXT_MB / 1000:g} GB for CUDA's context {counted / 1000:.2f} GB, "
        f"{'within' if fits else 'above'} the budget of {budget_gb:g} GB",
    )


def counted_mb(estimate: MemoryEstimate) -> float:
    """What a budget must hold, in MB: see :func:`check_budget`."""
    peak = estimate.needed_mb * (1 + FRAGMENTATION)
    return max(peak, estimate.reserved_mb or 0.0) + CONTEXT_MB


def record_out_of_memory(experiment: Experiment, budget_gb: float) -> None:
    """Remember that it did not fit: it and all that is larger will not fit into less either.

    Raises:
        ResourceError: The cache folder cannot be written.
    """
    key = key_of(experiment, len(experiment.data.modalities))
    note_out_of_memory(key, budget_gb, machine(experiment.compute))


def _as_estimate(reading: Reading) -> MemoryEstimate:
    return MemoryEstimate(**asdict(reading), source="measured")


def _peak(estimate: MemoryEstimate) -> str:
    where = "training" if estimate.peak_mb >= estimate.inference_peak_mb else "inference"
    return f"{where} takes {estimate.needed_mb / 1000:.2f} GB ({estimate.source})"
