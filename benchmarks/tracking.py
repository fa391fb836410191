"""Share of an epoch that goes into recording, on a local SQLite store.

Ours hands everything an epoch has over in one call that does not wait for the disk; the peer calls
``mlflow.log_metric`` once per metric, as most training scripts do. Both write the same 24 metrics
of 100 epochs to stores of their own, in turns, so that a busy machine slows both. Also measured:
the time until ours has arrived, CPU time, the system metrics, the calls a run makes once.

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


def all_clocks(
    call: Callable[[], object], arrive: Callable[[], object]
) -> tuple[float, float, float]:
    """One entry of :data:`Times`; ``arrive`` returns once what ``call`` logged is in the store."""
    cpu = time.process_time()
    waited = seconds(call)
    arrived = waited + seconds(arrive)
    return waited, arrived, time.process_time() - cpu


def peer_run(folder: Path) -> Callable[[dict[str, float], int], None]:
    """A run in a store of its own, recorded by one ``mlflow.log_metric`` per metric."""
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.set_experiment("peer")
    mlflow.start_run()

    def log(metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            mlflow.log_metric(name, value, step=step)

    return log


Times = list[tuple[float, float, float]]
"""Per epoch: seconds the loop waits, seconds until everything has arrived, CPU seconds for it."""


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
        ours = all_clocks(
            lambda m=metrics, step=epoch + 3: tracker.log_metrics(m, step), tracker._outbox.flush
        )
        theirs = all_clocks(lambda m=metrics, step=epoch + 3: peer(m, step), lambda: None)
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
    waited, arrived, cpu = np.array(times).T
    cells = (np.median(waited), np.quantile(waited, 0.95), np.median(arrived), np.median(cpu))
    shown = " | ".join(f"{value * 1e3:.2f} ms" for value in cells)
    return f"| {name} | {shown} | {np.median(waited) / EPOCH_SECONDS:.2%} |"


def report(ours: Times, peer: Times, once: dict[str, float]) -> str:
    tags, _ = describe_environment()
    (ours_s, ours_arrived, ours_cpu), (peer_s, peer_arrived, _) = (
        np.median(np.array(times), axis=0) for times in (ours, peer)
    )
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
            "| | the loop waits (median) | 95th percentile | until arrived | CPU "
            "| share of a one-second epoch |",
            "|---|---|---|---|---|---|",
            row("ours, one call per epoch", ours),
            row("`mlflow.log_metric` per metric", peer),
            "",
            f"Ratio peer / ours: **{peer_s / ours_s:.0f}** in waiting, "
            f"**{peer_arrived / ours_arrived:.1f}** until arrived. Aim, under {AIM:.0%} of a "
            f"one-second epoch: {verdict} (waiting {ours_s / EPOCH_SECONDS:.2%}; CPU in the "
            f"background {ours_cpu / EPOCH_SECONDS:.2%} of one core).",
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
