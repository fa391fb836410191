"""``memory``: what an experiment needs, whether it fits, and the nearest settings that do."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from rich.markup import escape
from rich.table import Table

from bratsml.compute.device import CONTEXT_MB
from bratsml.experiment import Experiment, find_experiment_file
from bratsml.tracking.mlflow_tracker import RUN_VARIABLE, open_run
from bratsml.tracking.store import project_root
from bratsml.tracking.tracker import Tracker
from bratsml.tuning.memory import (
    FRAGMENTATION,
    MemoryEstimate,
    Verdict,
    check_budget,
    measure_memory,
    predict_memory,
)
from bratsml.tuning.suggest import (
    Search,
    Suggestion,
    every_free_saving,
    is_longest,
    largest_patch,
    nearest,
    parameters_mb,
)
from bratsml.workflows.arguments import gigabytes
from bratsml.workflows.console import console, say, size, warn
from bratsml.workflows.price import say_price
from bratsml.workflows.request import Request, lay_over, typed_layers

PARTS = {
    "weights": "weights_mb",
    "gradients": "gradients_mb",
    "optimizer state": "optimizer_mb",
    "activations": "activations_mb",
    "temporary": "temporary_mb",
}
"""Rows of the breakdown to fields of an estimate; together they make the peak of training."""


def room_mb(budget_gb: float) -> float:
    """What is left of a budget for tensors, in MB (1e6 bytes); 0 when nothing is."""
    return max(0.0, (budget_gb * 1000 - CONTEXT_MB) / (1 + FRAGMENTATION))


@dataclass(frozen=True)
class Oracle:
    """The questions that the command asks about memory."""

    predict: Callable[[Experiment], MemoryEstimate] = predict_memory
    check_budget: Callable[[Experiment, float], Verdict] = check_budget
    measure: Callable[[Experiment], MemoryEstimate] = measure_memory
    room_mb: Callable[[float], float] = room_mb


@dataclass
class Report:
    """All that was found.

    Attributes:
        budget_gb: GB (1e9 bytes); ``None`` when none was given.
        largest: The largest patches that fit, as it is and with every free saving.
    """

    experiment: Experiment
    budget_gb: float | None
    estimate: MemoryEstimate
    measured: MemoryEstimate | None = None
    fits: bool = True
    suggestions: list[Suggestion] = field(default_factory=list)
    largest: list[Suggestion] = field(default_factory=list)


def memory(
    request: Request,
    *,
    budget: str = "",
    price: bool = False,
    measure: bool = False,
    oracle: Oracle | None = None,
) -> bool:
    """Print what an experiment needs; for a budget also the nearest settings that fit.

    The experiment is taken as it is written: the phantom profile is not laid over it.

    Args:
        budget: Such as ``8GB``; ``compute.vram_gb`` of the experiment if empty.
        price: Train a few steps to estimate time, disk and host memory.
        measure: Also train two steps on this machine's GPU and read its allocator.

    Returns:
        Whether it fits; true without a budget.

    Raises:
        ConfigError: The experiment or the budget is wrong.
        ResourceError: A measurement is wanted and there is no GPU.
    """
    root = project_root()
    path = find_experiment_file(root, request.model, request.experiment)
    experiment = lay_over(path, typed_layers(request, {}), root, phantom=False)
    budget_gb = gigabytes("budget", budget) if budget else budget_of(experiment)
    report = look_into(experiment, budget_gb, oracle or Oracle(), measure=measure)
    if os.environ.get(RUN_VARIABLE):  # started by `mlflow run`, which has made a run
        log(report, root)
    if price:
        say_price(experiment, request.data)
    return report.fits


def budget_of(experiment: Experiment) -> float | None:
    """The limit that the experiment itself sets."""
    return getattr(experiment.compute, "vram_gb", None)


def look_into(
    experiment: Experiment, budget_gb: float | None, oracle: Oracle, *, measure: bool = False
) -> Report:
    """Predict, compare with the budget, search; prints each as soon as it is known."""
    with console.status("tracing a training step and a window"):
        report = Report(experiment, budget_gb, oracle.predict(experiment))
    _print_breakdown(report.estimate, _title("Predicted", experiment))
    if measure:
        with console.status("training two steps on the GPU"):
            report.measured = oracle.measure(experiment)
        _print_breakdown(report.measured, _title("Measured", experiment))
    if budget_gb is None:
        return report
    with console.status("predicting") as status:
        search = Search(
            experiment,
            lambda changed: oracle.check_budget(changed, budget_gb),
            oracle.room_mb(budget_gb),
            lambda text: status.update(
                f"prediction {search.num_predictions + 1}: {escape(text or 'as it is')}"
            ),
        )
        _judge(report, search)
        if not report.fits:
            report.suggestions = nearest(search)
            _print_suggestions(report)
        report.largest = _largest(search)
    _say_largest(report, search)
    return report


def log(report: Report, root: Path) -> None:
    """Keep the report with the run that ``mlflow run`` has made."""
    tracker = open_run(
        command="memory",
        experiment_name="bratsml",
        run_name=f"memory of {report.experiment.name}",
        fingerprint="",
        root=root,
        fork=True,
    )
    _log(report, tracker)
    tracker.finish("FINISHED")


def _judge(report: Report, search: Search) -> None:
    """Say whether it fits and by how much; the verdict knows of measurements on this GPU."""
    verdict = search.verdict({})
    assert verdict is not None
    known, room = verdict.estimate, search.room_mb
    report.fits = verdict.fits
    budget = f"{report.budget_gb:g} GB"
    say(
        f"{budget} leave {size(room * 1e6)} for tensors, after {CONTEXT_MB / 1000:g} GB for CUDA's "
        f"context and {FRAGMENTATION:.0%} for fragmentation"
    )
    spare = room - peak_mb(known)
    if report.fits:
        say(f"fits into {budget}: {size(spare * 1e6)} to spare")
    elif spare >= 0:
        say(f"does not fit into {budget}: {verdict.reason}")
    else:
        where = "training" if known.peak_mb >= known.inference_peak_mb else "inference"
        say(f"does not fit into {budget}: {where} takes {size(-spare * 1e6)} too much")
    for name, amount in (
        ("the weights alone need", known.weights_mb),
        ("weights, gradients and optimizer state alone need", parameters_mb(known)),
    ):
        if amount > room:
            say(f"{name} {size(amount * 1e6)}: no patch or batch is small enough for this budget")
            return


def peak_mb(estimate: MemoryEstimate) -> float:
    """The larger peak, of training or of inference."""
    return max(estimate.peak_mb, estimate.inference_peak_mb)


def _largest(search: Search) -> list[Suggestion]:
    alone = largest_patch(search)
    if alone is not None and is_longest(search, alone):
        return [alone]
    free = every_free_saving(search)
    thriftier = largest_patch(search, free) if free else None
    if alone is None or thriftier is None:
        return [patch for patch in (alone, thriftier) if patch is not None]
    is_larger = alone.change["loader.patch"] != thriftier.change["loader.patch"]
    return [alone, thriftier] if is_larger else [alone]


def _title(source: str, experiment: Experiment) -> str:
    sides = " x ".join(map(str, experiment.loader.patch))
    return (
        f"{source} memory of {experiment.name}: {experiment.loader.batch_size} x ({sides}), "
        f"precision {experiment.compute.precision}"
    )


def _print_breakdown(estimate: MemoryEstimate, title: str) -> None:
    say(f"{title}; parts as they are at the fullest moment of a step")
    table = Table()
    table.add_column("")
    table.add_column("memory", justify="right")
    table.add_column("share of the peak", justify="right")
    for name, attribute in PARTS.items():
        amount = getattr(estimate, attribute)
        share = amount / estimate.peak_mb if estimate.peak_mb else 0.0
        table.add_row(name, size(amount * 1e6), f"{share:.0%}")
    table.add_section()
    table.add_row("training, peak", size(estimate.peak_mb * 1e6), "100%", style="bold")
    table.add_row("sliding-window inference, peak", size(estimate.inference_peak_mb * 1e6), "")
    console.print(table)


def _print_suggestions(report: Report) -> None:
    if not report.suggestions:
        warn("no settings near these fit; choose another network or a larger budget")
        return
    say("nearest settings that fit, those that harm the result least first:")
    for number, found in enumerate(report.suggestions, start=1):
        say(f"{number:3}. {typed(found)}")
        say(
            f"     {', '.join(found.savings)}: training {size(found.estimate.peak_mb * 1e6)}, "
            f"inference {size(found.estimate.inference_peak_mb * 1e6)}; {'; '.join(found.cost)}"
        )


def typed(suggestion: Suggestion) -> str:
    """What to add to a command; quoted, since shells read brackets."""
    return f'--set "{suggestion.text}"'


def _say_largest(report: Report, search: Search) -> None:
    if not report.largest:
        say("no patch of these proportions fits, not even the smallest that the network takes")
    for place, found in enumerate(report.largest):
        sides = "x".join(map(str, found.change["loader.patch"]))
        others = [name for name in found.change if name != "loader.patch"]
        beside = f" with {' and '.join(others)}" if others else ""
        more = ", the largest looked at" if is_longest(search, found) else ""
        say(
            f"{'then the' if place else 'the'} largest patch that fits{beside}: {sides} "
            f"({size(peak_mb(found.estimate) * 1e6)}{more}): {typed(found)}"
        )
    say(f"({search.num_predictions} predictions)")


def _log(report: Report, tracker: Tracker) -> None:
    estimate = report.measured or report.estimate
    values = {name: getattr(estimate, name) for name in (*PARTS.values(),)}
    values |= {"peak_mb": estimate.peak_mb, "inference_peak_mb": estimate.inference_peak_mb}
    tracker.log_metrics({f"memory/{name}": value for name, value in values.items()}, step=0)
    tracker.set_tags({"bratsml.fits": str(report.fits).lower()})
    if report.budget_gb is not None:
        tracker.log_params({"budget_gb": report.budget_gb})
    rows = [
        {
            "settings": found.text,
            "training_mb": found.estimate.peak_mb,
            "inference_mb": found.estimate.inference_peak_mb,
            "cost": "; ".join(found.cost),
        }
        for found in (*report.suggestions, *report.largest)
    ]
    if rows:
        tracker.log_table(pd.DataFrame(rows), "memory/settings")
