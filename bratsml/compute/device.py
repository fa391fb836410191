"""Device and precision, behind Lightning Fabric; the place to add several GPUs later."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from pydantic import Field

from bratsml.config import Config
from bratsml.errors import ConfigError

Precision = Literal["32", "bf16", "fp16"]
CONTEXT_MB = 500.0
"""What CUDA takes for itself (context, kernels) beside PyTorch's allocator: an allowance, in MB."""
_FABRIC_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class ComputeConfig(Config):
    """Where and in which precision a network runs.

    Attributes:
        device: ``auto`` takes a GPU when there is one.
        precision: ``bf16`` and ``fp16`` are mixed; ``fp16`` needs a GPU and scales the loss.
        channels_last: Memory layout in which tensor cores read convolutions fastest.
        compile: ``torch.compile`` the network; slow first step.
        cudnn_benchmark: Let cuDNN try its algorithms; best when every patch has one shape.
        deterministic: Refuse algorithms whose result varies from run to run.
        threads: CPU threads; ``None`` leaves the choice to the launcher and to torch.
        vram_gb: GPU memory (1e9 bytes) that the process may take, so that a large card behaves like
            a small one; at most the card's own. ``None`` for all of it. Nothing on a CPU.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "32"
    channels_last: bool = False
    compile: bool = False
    cudnn_benchmark: bool = True
    deterministic: bool = False
    threads: int | None = Field(default=None, ge=1)
    vram_gb: float | None = Field(default=None, gt=0)


def choose_device(config: ComputeConfig) -> torch.device:
    """The device that the config means on this machine.

    Raises:
        ConfigError: A GPU is asked for and there is none, or fp16 without one.
    """
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise ConfigError(
            "compute.device=cuda, but this machine has no usable GPU; use auto or cpu"
        )
    device = torch.device("cuda" if has_gpu and config.device != "cpu" else "cpu")
    if config.precision == "fp16" and device.type == "cpu":
        raise ConfigError("compute.precision=fp16 needs a GPU; on a CPU use 32 or bf16")
    return device


def count_gpus(config: ComputeConfig) -> int:
    """GPUs that may be used; does not start CUDA in this process."""
    return 0 if config.device == "cpu" else torch.cuda.device_count()


def cap_memory(config: ComputeConfig, device: torch.device) -> None:
    """Let PyTorch's allocator take no more of the GPU than ``vram_gb`` leaves it.

    :data:`CONTEXT_MB` of the limit are CUDA's own, which no allocator counts.

    Raises:
        ConfigError: Nothing is left beside them.
    """
    if device.type != "cuda":
        return
    share = 1.0
    if config.vram_gb is not None:
        left = config.vram_gb * 1e9 - CONTEXT_MB * 1e6
        if left <= 0:
            raise ConfigError(
                f"compute.vram_gb={config.vram_gb:g} leaves nothing beside the "
                f"{CONTEXT_MB / 1000:g} GB that CUDA takes for itself; raise it"
            )
        share = min(1.0, left / torch.cuda.get_device_properties(device).total_memory)
    # also without a limit: one set earlier in this process would stay
    torch.cuda.set_per_process_memory_fraction(share, _with_index(device))


def make_fabric(config: ComputeConfig) -> Fabric:
    """Fabric on one device, with backends set as the config says.

    Raises:
        ConfigError: See :func:`choose_device`.
    """
    device = choose_device(config)
    cap_memory(config, device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.backends.cudnn.benchmark = config.cudnn_benchmark and not config.deterministic
    torch.use_deterministic_algorithms(config.deterministic, warn_only=False)
    return Fabric(
        accelerator=device.type,
        devices=1,
        precision=_FABRIC_PRECISION[config.precision],  # type: ignore[arg-type]
    )


def _with_index(device: torch.device) -> torch.device:
    return device if device.index is not None else torch.device("cuda", 0)


def autocast_of(config: ComputeConfig, device: torch.device) -> AbstractContextManager[object]:
    """The mixed-precision context of one forward pass outside Fabric."""
    if config.precision == "32":
        return nullcontext()
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (all devices)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(seed)
