"""``train``: one model on one fold's training cases, validated on that fold."""

from __future__ import annotations

import re
from typing import Any

from bratsml.config import Tree
from bratsml.data.extra import split_of
from bratsml.errors import ConfigError
from bratsml.tracking.mlflow_tracker import find_finished_run, open_run
from bratsml.workflows.console import say
from bratsml.workflows.cv import Stopped
from bratsml.workflows.estimate import estimate, say_estimate
from bratsml.workflows.fold import FoldWork, fingerprint, run_fold
from bratsml.workflows.request import Prepared, Request, prepare
from bratsml.workflows.start import Start
from bratsml.workflows.view import say_how_to_view


def train(request: Request, split: str = "") -> str:
    """Train or go on training; returns the run id.

    Args:
        split: ``""`` for fold 0, a fold number, a split file, or ``FILE:FOLD``.

    Raises:
        BratsmlError: Bad input, before any work; or the work was asked to stop (all is saved).
    """
    file, fold = parse_split(split)
    shorthand: Tree = {"split": {"file": file}} if file else {}
    return run_train(prepare(request, shorthand), Start(fork=request.fork), fold)


def run_train(prepared: Prepared, start: Start, fold: int = 0) -> str:
    """Train a prepared experiment, validated on that fold; returns the run id.

    Raises:
        BratsmlError: See :func:`train`.
    """
    experiment, store = prepared.experiment, prepared.store
    start.require_weights(experiment.transfer)
    the_split = split_of(store, experiment.split)
    if fold >= len(the_split.folds):
        raise ConfigError(
            f"split names fold {fold}, but there are only folds 0 to {len(the_split.folds) - 1}"
        )
    key = fingerprint("train", experiment, store, the_split, fold)
    finished = None if start.fork else find_finished_run(key, root=prepared.root)
    if finished:
        say(f"already done: run {finished} is this training; --fork runs it anew")
        return finished
    tracker = open_run(
        command="train",
        experiment_name="bratsml",
        run_name=start.name or f"{experiment.name}, fold {fold}",
        fingerprint=key,
        root=prepared.root,
        fork=start.fork,
        parent=start.parent,
    )
    folder = prepared.root / "outputs" / f"train-{experiment.name}-{tracker.run_id[:8]}"
    start.opened(tracker.run_id, folder)
    tracker.set_tags(start.tags)
    say_estimate(estimate(experiment, store, the_split), num_folds=1, parallel=1)
    weights = start.weights[0] if start.weights else None
    work = FoldWork.build(experiment, store, the_split, fold, folder, weights)
    result = run_fold(work, tracker, score_untrained=prepared.is_phantom)
    if result.stopped_by == "signal":
        raise Stopped("stopped; everything is saved, the same command goes on")
    say(f"best validation Dice {result.best_score:.3f} at epoch {result.best_epoch}")
    say_how_to_view(prepared.root, tracker)
    return tracker.run_id


def parse_split(text: str) -> tuple[str, int]:
    """File (or ``""``) and fold number that ``--split`` means."""
    matched: Any = re.fullmatch(r"(?:(?P<file>.+?):)?(?P<fold>\d+)", text)
    if matched:
        return matched["file"] or "", int(matched["fold"])
    return text, 0
