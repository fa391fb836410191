"""Share of an epoch that goes into recording, on a local SQLite store.

Ours records everything an epoch has in one call; the peer calls ``mlflow.log_metric`` once per
metric, as most training scripts do. Both write the same 24 metrics of 100 epochs to stores of their
own, in turns, so that a busy machine slows both. Also measured: what the system metrics' thread
takes, the calls a run makes once, and a checkpoint.

    python benchmarks/tracking.py [--epochs 100] [--write]
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np

from bratsml.files import write_text
from bratsml.tracking.environment import describe_environment
from bratsml.tracking.mlflow_tracker import MlflowTracker, open_run
from bratsml.tracking.store import TrackingStore
from bratsml.tracking.system_metrics import INTERVAL_SECONDS, sample

EPOCH_SECONDS = 1.0
AIM = 0.01
CHECKPOINT_MEGABYTES = 60
RESULT = Path(__file__).parent / "results" / "tracking.md"
NAMES = (
    "train/loss",
    "lr",
    "epoch_seconds",
    "cases_per_second",
    "peak_memory_mb",
    "grad_norm",
    "val/loss",
    *(f"val/{kind}/{region}" for kind in ("dice", "hd95") for region in ("ET", "TC", "WT", "mean")),
    *(f"val/{kind}/{region}" for kind in ("sens", "spec", "vol") for region in ("ET", "TC", "WT")),
)


def metrics_of(epoch: int) -> dict[str, float]:
    rng = np.random.default_rng(epoch)
    return {name: float(rng.random()) for name in NAMES}


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def both_clocks(call: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds and CPU seconds of this process."""
    cpu = time.process_time()
    return seconds(call), time.process_time() - cpu


def peer_run(folder: Path) -> Callable[[dict[str, float], int], None]:
    """A run in a store of its own, recorded by one ``mlflow.log_metric`` per metric."""
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment("peer")
    mlflow.start_run()

    def log(metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            mlflow.log_metric(name, value, step=step)

    return log


Times = list[tuple[float, float]]
"""Wall and CPU seconds, one pair per epoch."""


def measure_epochs(epochs: int, folder: Path) -> tuple[Times, Times, MlflowTracker]:
    """Ours and the peer's, epoch by epoch in turns."""
    store = TrackingStore.locate(folder / "ours")
    names = {"experiment_name": "bratsml", "run_name": "benchmark", "fingerprint": ""}
    tracker = open_run(command="benchmark", root=store.root, **names)
    (folder / "peer").mkdir()
    peer = peer_run(folder / "peer")
    ours_times: Times = []
    peer_times: Times = []
    for epoch in range(-3, epochs):  # the first ones open connections
        metrics = metrics_of(epoch + 3)
        ours = both_clocks(lambda m=metrics, step=epoch + 3: tracker.log_metrics(m, step))
        theirs = both_clocks(lambda m=metrics, step=epoch + 3: peer(m, step))
        if epoch >= 0:
            ours_times.append(ours)
            peer_times.append(theirs)
    mlflow.end_run()
    return ours_times, peer_times, tracker


def measure_once(tracker: MlflowTracker, folder: Path) -> dict[str, float]:
    """Seconds of the calls a run makes once or seldom."""
    checkpoint = folder / "best.pt"
    checkpoint.write_bytes(np.random.default_rng(0).bytes(CHECKPOINT_MEGABYTES * 10**6))
    params = {f"section.setting_{number}": number for number in range(80)}
    return {
        "80 settings": seconds(lambda: tracker.log_params(params)),
        "tags and versions": seconds(lambda: tracker.set_tags(describe_environment()[0])),
        f"checkpoint of {CHECKPOINT_MEGABYTES} MB as a logged model": seconds(
            lambda: tracker.log_checkpoint(checkpoint, "best", 0, {"val/dice/mean": 0.5})
        ),
        "one sample of system metrics": statistics.median(
            seconds(lambda: sample({})) for _ in range(20)
        ),
    }


def row(name: str, times: Times) -> str:
    wall, cpu = np.array(times).T
    cells = (np.median(wall), np.quantile(wall, 0.95), np.median(cpu))
    shown = " | ".join(f"{value * 1e3:.1f} ms" for value in cells)
    return f"| {name} | {shown} | {np.median(wall) / EPOCH_SECONDS:.2%} |"


def report(ours: Times, peer: Times, once: dict[str, float]) -> str:
    tags, _ = describe_environment()
    ours_s, peer_s = (statistics.median(wall for wall, _ in times) for times in (ours, peer))
    verdict = "reached" if ours_s / EPOCH_SECONDS < AIM else "missed"
    sampling = once["one sample of system metrics"] / INTERVAL_SECONDS
    return "\n".join(
        [
            "# Recording, local SQLite",
            "",
            f"{datetime.date.today()}, {tags['hardware.cpu']}, {tags['hardware.cores']} cores, "
            f"{tags['hardware.ram_gb']} GB, load average {os.getloadavg()[0]:.1f}; "
            f"Python {tags['version.python']}, MLflow {tags['version.mlflow']}; "
            f"commit {tags.get('mlflow.source.git.commit', '?')[:10]}. "
            "`python benchmarks/tracking.py`",
            "",
            f"{len(NAMES)} metrics per epoch, {len(ours)} epochs, both in turns in one process.",
            "",
            "| | median per epoch | 95th percentile | CPU | share of a one-second epoch |",
            "|---|---|---|---|---|",
            row("ours, one call per epoch", ours),
            row("`mlflow.log_metric` per metric", peer),
            "",
            f"Ratio peer / ours: **{peer_s / ours_s:.1f}**. Aim, under {AIM:.0%} of a one-second "
            f"epoch: {verdict}.",
            "",
            f"System metrics take {sampling:.3%} of one core besides. Once per run:",
            "",
            *(f"- {name}: {value * 1e3:.1f} ms" for name, value in once.items()),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--write", action="store_true", help=f"write {RESULT.name} too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        ours, peer, tracker = measure_epochs(arguments.epochs, folder)
        once = measure_once(tracker, folder)
        tracker.finish("FINISHED")
    text = report(ours, peer, once)
    print(text)
    if arguments.write:
        write_text(RESULT, text)


if __name__ == "__main__":
    main()
