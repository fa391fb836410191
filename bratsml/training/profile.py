"""A profiler trace of a few early steps, kept with the run."""

from __future__ import annotations

import gzip
import html
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch.profiler import ProfilerActivity

from bratsml.config import Config
from bratsml.files import open_file
from bratsml.tracking.tracker import Tracker
from bratsml.training.hooks import Hook

TABLE_ROWS = 40


class ProfileConfig(Config):
    """Which optimizer steps of the first epoch are traced.

    Attributes:
        wait: Steps before anything.
        warmup: Steps traced and thrown away.
        active: Steps kept; 0 turns the profiler off.
    """

    wait: int = Field(default=1, ge=0)
    warmup: int = Field(default=1, ge=0)
    active: int = Field(default=3, ge=0)


class ProfilerHook(Hook):
    """Writes ``profiler/trace.json.gz`` (opens in Perfetto) and ``profiler/table.html``.

    Only a fresh run is traced, in its first epoch; the profiler costs nothing afterwards.

    Args:
        accumulate: Batches per optimizer step.
    """

    def __init__(self, config: ProfileConfig, tracker: Tracker, accumulate: int = 1) -> None:
        self.config, self.tracker, self.accumulate = config, tracker, accumulate
        self.profiler: Any = None

    def on_fit_start(self, epoch: int, epochs: int, steps: int) -> None:
        """See :class:`~bratsml.training.hooks.Hook`."""
        if epoch > 0 or self.config.active == 0:
            return
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        steps = math.ceil(steps / self.accumulate)
        # short epochs still leave a trace: waiting and warm-up give way to active steps
        wait = min(self.config.wait, max(0, steps - 2))
        warmup = min(self.config.warmup, max(0, steps - wait - 1))
        active = min(self.config.active, max(1, steps - wait - warmup))
        self.profiler = torch.profiler.profile(
            activities=activities,
            schedule=torch.profiler.schedule(wait=wait, warmup=warmup, active=active, repeat=1),
            on_trace_ready=self._keep,
        )
        self.profiler.__enter__()

    def on_step(self, step: int, loss: float) -> None:
        """See :class:`~bratsml.training.hooks.Hook`."""
        if self.profiler is not None:
            self.profiler.step()

    def on_epoch_end(self, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        """See :class:`~bratsml.training.hooks.Hook`."""
        self.close()

    def close(self) -> None:
        """See :class:`~bratsml.training.hooks.Hook`."""
        if self.profiler is not None:
            profiler, self.profiler = self.profiler, None
            profiler.__exit__(None, None, None)

    def _keep(self, profiler: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(plain))
            packed = Path(folder) / "trace.json.gz"
            with open_file(plain) as stream, gzip.open(packed, "wb", compresslevel=6) as target:
                shutil.copyfileobj(stream, target)
            self.tracker.log_file(packed, "profiler")
        self.tracker.log_text(table_html(profiler.key_averages()), "profiler/table.html")


def table_html(averages: Any) -> str:
    """The most expensive operators as an HTML page."""
    on_gpu = torch.cuda.is_available()
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = sorted(averages, key=lambda row: -getattr(row, order))[:TABLE_ROWS]
    cells = "".join(
        f"<tr><td>{html.escape(row.key)}</td><td>{row.count}</td>"
        f"<td>{row.self_cpu_time_total / 1e3:.2f}</td>"
        f"<td>{row.self_device_time_total / 1e3:.2f}</td></tr>"
        for row in rows
    )
    return (
        "<!doctype html><meta charset=utf-8><title>Profile</title>"
        "<style>body{font-family:sans-serif}td,th{padding:2px 10px;text-align:right}"
        "td:first-child,th:first-child{text-align:left}tr:nth-child(even){background:#f3f3f3}</style>"
        f"<h3>Operators by own time, {TABLE_ROWS} largest</h3><table><tr><th>operator<th>calls"
        f"<th>CPU ms<th>GPU ms</tr>{cells}</table>"
    )
