"""Load and memory of the machine while a run lasts, under MLflow's ``system/`` names.

MLflow's own monitor ends for good the first time its server does not answer; this one goes through
the outbox like everything else.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any

import psutil

PREFIX = "system/"
INTERVAL_SECONDS = 10.0
FIRST_SECONDS = 2.0
"""The first sample comes early, so that a short run has some too."""
MEGABYTE = 2**20


class SystemMetrics:
    """A thread that samples every ten seconds and hands the values on.

    Args:
        log: Takes the values and their step.
        first_step: Step of the first sample; after the last one when a run is continued.
        interval_seconds: Time between samples.
    """

    def __init__(
        self,
        log: Callable[[dict[str, float], int], None],
        first_step: int = 0,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self._log, self._step, self._interval = log, first_step, interval_seconds
        self._ended = threading.Event()
        self._gpus = _gpu_handles()
        self._thread = threading.Thread(target=self._run, daemon=True, name="system-metrics")

    def start(self) -> None:
        """Begin sampling."""
        psutil.cpu_percent()  # the first call only sets the start of the interval
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end."""
        if not self._ended.is_set():
            self._ended.set()
            self._thread.join(timeout=5.0)

    def _run(self) -> None:
        self._ended.wait(min(FIRST_SECONDS, self._interval))
        while True:
            self._log(sample(self._gpus), self._step)
            self._step += 1
            if self._ended.is_set():
                return
            self._ended.wait(self._interval)


def sample(gpus: dict[int, Any]) -> dict[str, float]:
    """One reading: percentages, megabytes (2**20 bytes) and watts."""
    memory = psutil.virtual_memory()
    values = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": (memory.total - memory.available) / MEGABYTE,
        "system_memory_usage_percentage": memory.percent,
        "process_memory_usage_megabytes": psutil.Process().memory_info().rss / MEGABYTE,
    }
    for index, handle in gpus.items():
        # a reading that one driver does not offer leaves the others
        with contextlib.suppress(Exception):
            values |= _gpu_sample(index, handle)
    return {PREFIX + name: round(float(value), 2) for name, value in values.items()}


def _gpu_sample(index: int, handle: Any) -> dict[str, float]:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return {
        f"gpu_{index}_utilization_percentage": pynvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        f"gpu_{index}_memory_usage_megabytes": memory.used / MEGABYTE,
        f"gpu_{index}_memory_usage_percentage": 100 * memory.used / memory.total,
        f"gpu_{index}_power_usage_watts": pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
    }


def _gpu_handles() -> dict[int, Any]:
    """The GPUs this process may use, where the optional package that reads them is installed."""
    try:
        import pynvml

        pynvml.nvmlInit()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        indices = list(range(pynvml.nvmlDeviceGetCount()))
        if visible is not None:
            wanted = visible.split(",")
            indices = [index for index in indices if str(index) in wanted]
        return {index: pynvml.nvmlDeviceGetHandleByIndex(index) for index in indices}
    except Exception:
        return {}
