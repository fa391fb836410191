"""``finetune``: training that starts from trained weights, on one fold or on all."""

from __future__ import annotations

from dataclasses import replace

from bratsml.config import Tree, with_overrides
from bratsml.data.extra import split_of
from bratsml.errors import ConfigError
from bratsml.tracking.store import project_root
from bratsml.workflows.arguments import whole_number
from bratsml.workflows.console import say, warn
from bratsml.workflows.cv import run_cv
from bratsml.workflows.request import Request, prepare_experiment, resolve_experiment
from bratsml.workflows.start import Start
from bratsml.workflows.start_weights import find_start_weights, require_unseen
from bratsml.workflows.train import run_train


def finetune(
    request: Request,
    checkpoint: str,
    fold: str = "",
    freeze_but_last: str = "",
    reset_last: str = "",
) -> str:
    """Fine-tune, or go on with it; returns the id of the run, which names where it started.

    Args:
        checkpoint: See :func:`bratsml.workflows.start_weights.find_start_weights`.
        fold: A fold number for one training, or ``""`` for a cross-validation.
        freeze_but_last, reset_last: See :class:`bratsml.training.transfer.TransferConfig`.

    Raises:
        BratsmlError: Bad input, before any work; start weights that were trained on patients who
            would be scored; or the work was asked to stop (all is saved).
    """
    if not checkpoint:
        raise ConfigError("finetune needs checkpoint=FILE_OR_RUN, the weights to start from")
    shorthand: Tree = {}
    if freeze_but_last:
        shorthand["freeze_but_last"] = whole_number("freeze-but-last", freeze_but_last)
    if reset_last:
        shorthand["reset_last"] = whole_number("reset-last", reset_last, 0)
    root = project_root()
    experiment = resolve_experiment(request, root, {"transfer": shorthand} if shorthand else {})
    prepared = prepare_experiment(experiment, request.data)
    store = prepared.store
    split = split_of(store, experiment.split)
    folds = [whole_number("fold", fold, 0)] if fold else list(range(len(split.folds)))
    if folds[0] >= len(split.folds):
        raise ConfigError(
            f"there is no fold {folds[0]}; use 0 to {len(split.folds) - 1}, or none for all"
        )
    weights = find_start_weights(checkpoint, folds, store, root)
    known = [
        require_unseen(start, store, split, number)
        for start, number in zip(weights, folds, strict=True)
    ]
    if not all(known):
        warn(
            f"not all patients that {weights[0].named} was trained on are on record; if some are "
            "in this data, the scores are too good"
        )
    hashes = tuple(dict.fromkeys(start.sha256 for start in weights))
    started = with_overrides(prepared.experiment, {"transfer": {"start": hashes}})
    prepared = replace(prepared, experiment=started)
    say(f"starting from {weights[0].named}")
    start = Start(fork=request.fork, name=_name(started.name, fold), weights=weights)
    return run_train(prepared, start, folds[0]) if fold else run_cv(prepared, start)


def _name(experiment: str, fold: str) -> str:
    return f"finetune {experiment}, fold {fold}" if fold else f"finetune cv {experiment}"
