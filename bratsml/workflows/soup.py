"""``soup``: several checkpoints mixed into one network, and what that gains on unseen cases."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.progress import Progress
from torch import nn

from bratsml.compute.device import choose_device
from bratsml.config import to_yaml
from bratsml.data.folds import Split
from bratsml.data.loader import PatchLoader
from bratsml.data.store import Store
from bratsml.ensembling.soup import Kind, has_running_statistics, refresh_statistics
from bratsml.errors import ConfigError
from bratsml.evaluation.evaluate import summarize
from bratsml.metrics import METRIC_VERSION
from bratsml.models.registry import neighbours_of
from bratsml.tracking.mlflow_tracker import open_run
from bratsml.tracking.runs import latest_run
from bratsml.tracking.store import project_root
from bratsml.tracking.tracker import Tracker
from bratsml.training.checkpoint import CheckpointFolder
from bratsml.workflows.arguments import whole_number
from bratsml.workflows.console import console, say, warn
from bratsml.workflows.fold import FoldWork
from bratsml.workflows.soup_choice import Recipe, Scoreboard, halves, judge
from bratsml.workflows.soup_ingredients import (
    ABOUT_CASES,
    Cases,
    Group,
    Parent,
    Sources,
    from_files,
    from_runs,
)
from bratsml.workflows.soup_report import STATISTICS_BATCHES, Soup, log_soup, recipe_of, report_all
from bratsml.workflows.view import say_how_to_view


def soup(
    runs: Sequence[str],
    checkpoints: Sequence[str],
    data: str,
    fold: str,
    kind: str,
    evaluations: str,
) -> str:
    """Make, score and record soups; returns the run id.

    Args:
        runs: ``cv``, ``train`` or study runs; the latest finished ``cv`` run without any.
        checkpoints: Files instead of runs.
        data: What they were trained on, or ``""`` for where it was then.
        fold: A fold number; ``""`` for every fold.
        kind: ``uniform``, ``greedy`` or ``learned``.
        evaluations: Soups that ``learned`` may try; ``""`` for 20.

    Raises:
        BratsmlError: No such run or file, checkpoints that do not fit together, or other data.
    """
    recipe = Recipe(_kind(kind or "greedy"), whole_number("evaluations", evaluations or "20"))
    root = project_root()
    sources = _sources(runs, checkpoints, fold, root)
    store = sources.store(data)
    for group in sources.groups:  # what cannot be done is said before any work
        cases = sources.cases(group, store)
        if cases.are_unseen and len({store.meta(case).patient for case in cases.ids}) == 1:
            _accept_one_patient(group, recipe)
    tracker = open_run(
        command="soup",
        experiment_name="bratsml",
        run_name=f"{recipe.kind} soup of {_name(sources)}",
        fingerprint="",
        root=root,
        fork=True,
    )
    folder = root / "outputs" / f"soup-{tracker.run_id[:8]}"
    try:
        _log_setup(tracker, sources, recipe, store)
        soups = [
            _one_soup(group, sources, store, recipe, folder, tracker) for group in sources.groups
        ]
        report_all(soups, recipe, tracker)
    except BaseException as error:
        tracker.set_tags({"bratsml.error": str(error)[:500] or type(error).__name__})
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")
    say(f"the soups are in {folder.relative_to(root)}/*/best.pt; use them with")
    say(f"  bratsml predict --runs {tracker.run_id} --data FOLDER")
    say_how_to_view(root, tracker)
    return tracker.run_id


def _sources(runs: Sequence[str], checkpoints: Sequence[str], fold: str, root: Path) -> Sources:
    if runs and checkpoints:
        raise ConfigError("give either runs or checkpoint files, not both")
    if checkpoints:
        if fold:
            raise ConfigError("fold chooses among the folds of a run; leave it out with files")
        return from_files(checkpoints, root)
    number = whole_number("fold", fold, 0) if fold else None
    return from_runs(runs or [latest_run("cv", root).run_id], number, root)


def _kind(text: str) -> Kind:
    for kind in get_args(Kind):
        if text == kind:
            return kind
    raise ConfigError(f"kind must be one of {', '.join(get_args(Kind))}, received {text!r}")


def _name(sources: Sources) -> str:
    if sources.runs:
        return " and ".join(run.name for run in sources.runs)
    return f"{len(sources.groups[0].parents)} files"


def _log_setup(tracker: Tracker, sources: Sources, recipe: Recipe, store: Store) -> None:
    first = sources.groups[0].parents[0]
    splits = {parent.split_hash for group in sources.groups for parent in group.parents}
    tracker.log_params(
        {
            "soup.of": ",".join(run.run_id for run in sources.runs) or "files",
            "soup.kind": recipe.kind,
            "dataset.hash": store.dataset_hash[:16],
            "metric_version": METRIC_VERSION,
        }
    )
    tracker.log_text(to_yaml(first.experiment), "experiment.yaml")
    if len(splits) == 1:
        tracker.log_params({"split.hash": first.split_hash[:16]})
        tracker.log_json(sources.split_of(first, store).to_tree(), "split.json")


def _one_soup(
    group: Group,
    sources: Sources,
    store: Store,
    recipe: Recipe,
    folder: Path,
    tracker: Tracker,
) -> Soup:
    """Choose, score, save and record one group's soup in a run of its own."""
    child = tracker.child(f"{recipe.kind} soup, {group.title}", key=group.key)
    try:
        cases = sources.cases(group, store)
        _warn_of_seen_cases(group, cases)
        best = _best_in_training(group)
        work = _work(group.parents[best], store, folder / group.key)
        board, loader = _board(group, best, work, cases)
        patients = {case: store.meta(case).patient for case in cases.ids}
        parts = halves(patients, work.experiment.seed) if cases.are_unseen else None
        total = recipe.most_scorings(len(group.parents), len(cases.ids), parts is not None)
        with Progress(console=console) as progress:
            task = progress.add_task(f"{group.title}: scoring", total=total)
            board.heard = partial(progress.advance, task)
            verdict = judge(board, recipe, cases.ids, parts)
            progress.update(task, completed=total)
        if group.trained_alike:
            first = group.parents[0]
            child.log_params({"fold": first.fold, "split.hash": first.split_hash[:16]})
            child.log_json(sources.split_of(first, store).to_tree(), "split.json")
        made = Soup(group, cases, verdict, work)
        _save(made, board, recipe)
        log_soup(made, recipe, loader is not None, child)
    except BaseException as error:
        child.set_tags({"bratsml.error": str(error)[:500] or type(error).__name__})
        child.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    child.finish("FINISHED")
    return made


def _warn_of_seen_cases(group: Group, cases: Cases) -> None:
    if not cases.are_unseen:
        warn(
            "these checkpoints are of different folds: no validation case is unseen by all of "
            "them, so no score here is one of unseen cases; score the soup on cases held out "
            "from all, e.g. the test split with 'bratsml ensemble'"
        )
    elif cases.num_left_out:
        warn(
            f"{group.title}: {cases.num_left_out} validation cases are left out, as one of the "
            "checkpoints was trained on them"
        )


def _accept_one_patient(group: Group, recipe: Recipe) -> None:
    """With one patient only a soup that chooses nothing can be reported honestly."""
    if recipe.kind != "uniform":
        raise ConfigError(
            f"{group.title} validates on one patient, so a soup cannot be chosen on some and "
            "reported on others; give kind=uniform, which chooses nothing"
        )


def _best_in_training(group: Group) -> int:
    scores = [parent.trained_score for parent in group.parents]
    return int(np.nanargmax(scores)) if not np.isnan(scores).all() else 0


def _work(parent: Parent, store: Store, folder: Path) -> FoldWork:
    """Network, outputs and scores as the best checkpoint was trained with."""
    nothing = Split(test=(), folds=())
    return FoldWork.build(parent.experiment, store, nothing, parent.fold or 0, folder)


def _board(
    group: Group, best: int, work: FoldWork, cases: Cases
) -> tuple[Scoreboard, PatchLoader | None]:
    model = work.model().to(choose_device(work.experiment.compute))
    predictor = work.predictor(model)
    loader = None
    if has_running_statistics(model):
        experiment = work.experiment
        config = experiment.loader.model_copy(update={"workers": 0})
        loader = PatchLoader(
            work.store,
            cases.training,
            config,
            experiment.seed,
            experiment.data.modalities,
            neighbours_of(experiment.model),
        )

    def refresh(network: nn.Module) -> None:
        assert loader is not None
        device = next(network.parameters()).device
        batches = islice(_again_and_again(loader), STATISTICS_BATCHES)
        refresh_statistics(
            network, (batch.to(device).image for batch in batches), predictor.autocast
        )

    board = Scoreboard(
        ingredients=[parent.ingredient() for parent in group.parents],
        predictor=predictor,
        scorer=work.scorer(cases.ids),
        copy_from=best,
        refresh=refresh if loader is not None else None,
    )
    return board, loader


def _again_and_again(loader: PatchLoader) -> Any:
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


def _save(made: Soup, board: Scoreboard, recipe: Recipe) -> None:
    """The published soup as a checkpoint like any other."""
    model = board.serve(made.verdict.published.choice.amounts)
    best = made.group.parents[board.copy_from]
    score = summarize(made.verdict.chosen, "soup").get("soup/dice/mean", float("nan"))
    about_cases = () if made.group.trained_alike else ABOUT_CASES  # what holds of one of them only
    config = {name: value for name, value in best.config.items() if name not in about_cases}
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    CheckpointFolder(made.work.folder).save_best(
        {
            "config": {**config, "soup": recipe_of(made, recipe)},
            "model": weights,
            "ema": None,
            "position": None,
            "best": {"score": score, "epoch": best.epoch},
        }
    )
