"""What a run of ``soup`` records and says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from bratsml.config import flatten
from bratsml.evaluation.compare import compare
from bratsml.evaluation.evaluate import summarize
from bratsml.figures.curves import table_figure
from bratsml.figures.soup import soup_figure
from bratsml.metrics import METRIC_VERSION
from bratsml.tracking.logged_model import log_segmentation_model
from bratsml.tracking.tracker import Tracker
from bratsml.workflows.compare import main_columns, print_table, sentence
from bratsml.workflows.console import say
from bratsml.workflows.fold import FoldWork
from bratsml.workflows.soup_choice import Recipe, Selection, Verdict
from bratsml.workflows.soup_ingredients import Cases, Group

STATISTICS_BATCHES = 32
"""Batches of training patches over which batch norms gather their statistics anew."""
BEST_SINGLE = "best single"


@dataclass(frozen=True)
class Soup:
    """One group's soup, scored."""

    group: Group
    cases: Cases
    verdict: Verdict
    work: FoldWork

    @property
    def patients(self) -> dict[str, str]:
        """Case to patient."""
        return {case_id: self.work.store.meta(case_id).patient for case_id in self.cases.ids}

    @property
    def prefix(self) -> str:
        """Of its metrics: scores on cases that chose or trained it are never called by its name."""
        return "" if self.verdict.is_cross_fitted or self.is_unchosen else "seen/"

    @property
    def is_unchosen(self) -> bool:
        """Nothing was chosen and nothing seen: a uniform soup on unseen cases."""
        return self.cases.are_unseen and not self.verdict.published.choice.trials


def recipe_of(made: Soup, recipe: Recipe) -> dict[str, Any]:
    """What is in a soup: kind, and name, run, epoch, hash and share of every parent."""
    amounts = made.verdict.published.choice.amounts
    return {
        "kind": recipe.kind,
        "parents": [
            {
                "name": parent.name,
                "run": parent.run,
                "epoch": parent.epoch,
                "sha256": parent.sha256,
                "share": amount / sum(amounts),
            }
            for parent, amount in zip(made.group.parents, amounts, strict=True)
        ],
    }


def log_soup(made: Soup, recipe: Recipe, is_refreshed: bool, tracker: Tracker) -> None:
    """Everything about one soup, into its run."""
    verdict, group = made.verdict, made.group
    tracker.log_params(flatten(made.work.experiment.tree()))
    tracker.log_params(
        {
            "soup.kind": recipe.kind,
            "soup.parents": len(group.parents),
            "soup.used": sum(amount > 0 for amount in verdict.published.choice.amounts),
            "soup.unseen": made.cases.are_unseen,
            "soup.cross_fitted": verdict.is_cross_fitted,
            "soup.statistics_batches": STATISTICS_BATCHES if is_refreshed else 0,
            "dataset.hash": made.work.store.dataset_hash[:16],
            "metric_version": METRIC_VERSION,
        }
    )
    tracker.log_json(_record(made, recipe), "soup.json")
    tracker.log_table(_all_scores(made), "scores/all")
    tracker.log_table(verdict.soup, "scores/validation" if not made.prefix else "scores/seen")
    gain, lines = _gain([made])
    metrics = _metrics(verdict.soup, verdict.best_single, gain, made.prefix)
    tracker.log_metrics(metrics, step=0)
    lines = [_what_is_in(made, recipe), *lines, *_notes(made, is_refreshed)]
    for line in lines:
        say(f"{group.title}: {line}")
    bars = bars_of(made, recipe)
    title = f"{recipe.kind} soup, {group.title}: mean Dice over {len(made.cases.ids)} cases"
    tracker.log_table(gain, "gain")
    tracker.log_figure(
        [soup_figure(bars, title), table_figure(main_columns(gain), _gain_title(made))], "soup"
    )
    best = made.work.folder / "best.pt"
    log_segmentation_model(tracker, best, 0, metrics)
    tracker.describe("\n".join(f"- {line}" for line in lines))


def _record(made: Soup, recipe: Recipe) -> dict[str, Any]:
    """Parents with shares, what each part of the cases chose, and every soup tried."""
    verdict = made.verdict
    names = [parent.name for parent in made.group.parents]

    def plain(selection: Selection) -> dict[str, Any]:
        return {
            "cases": list(selection.case_ids),
            "scores": dict(zip(names, map(_or_none, selection.scores), strict=True)),
            "best_single": names[selection.best],
            "amounts": dict(zip(names, selection.choice.amounts, strict=True)),
            "tried": [
                {**asdict(trial), "score": _or_none(trial.score)}
                for trial in selection.choice.trials
            ],
        }

    return {
        **recipe_of(made, recipe),
        "cases_are_unseen": made.cases.are_unseen,
        "is_cross_fitted": verdict.is_cross_fitted,
        "published": plain(verdict.published),
        "parts": [plain(selection) for selection in verdict.parts],
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _all_scores(made: Soup) -> pd.DataFrame:
    """Every table under one another, with columns ``model`` and ``chosen_on``."""
    verdict = made.verdict
    how = "other half" if verdict.is_cross_fitted else "these cases"
    named = [
        *(
            (parent.name, "nothing", table)
            for parent, table in zip(made.group.parents, verdict.ingredients, strict=True)
        ),
        ("uniform soup", "nothing", verdict.uniform),
        (BEST_SINGLE, how, verdict.best_single),
        ("soup", how, verdict.soup),
        ("published soup", "these cases", verdict.chosen),
    ]
    tables = [table.assign(model=name, chosen_on=how) for name, how, table in named]
    return pd.concat(tables, ignore_index=True)


def bars_of(made: Soup, recipe: Recipe) -> pd.DataFrame:
    """The bars of :func:`bratsml.figures.soup.soup_figure`, the ingredients from above."""
    verdict = made.verdict
    amounts = verdict.published.choice.amounts
    rows = [
        {"name": parent.name, "kind": "ingredient", "dice": _dice(table), "share": a / sum(amounts)}
        for parent, table, a in zip(made.group.parents, verdict.ingredients, amounts, strict=True)
    ]
    is_honest = not made.prefix
    how = "chosen on the other half" if verdict.is_cross_fitted else "chosen on these cases"
    soups: list[tuple[str, str, pd.DataFrame]] = [
        (f"{BEST_SINGLE}, {how}", BEST_SINGLE, verdict.best_single),
        ("uniform soup", "soup" if made.cases.are_unseen else how, verdict.uniform),
    ]
    if recipe.kind != "uniform":
        if is_honest:
            soups.append((f"{recipe.kind} soup, {how}", "soup", verdict.soup))
        published = f"{recipe.kind} soup, chosen on these cases"
        soups.append((published, "chosen on these cases", verdict.chosen))
    rows += [
        {"name": name, "kind": kind, "dice": _dice(table), "share": float("nan")}
        for name, kind, table in soups
    ]
    return pd.DataFrame(rows)


def _dice(table: pd.DataFrame) -> float:
    return summarize(table, "x").get("x/dice/mean", float("nan"))


def _metrics(
    soup: pd.DataFrame, best_single: pd.DataFrame, gain: pd.DataFrame, prefix: str
) -> dict[str, float]:
    """Scores of both, and the gain in mean Dice with its interval."""
    columns = {"": "difference", "_low95": "low95", "_high95": "high95"}
    row = gain.iloc[0]
    gains = {f"{prefix}gain/dice/mean{end}": float(row[name]) for end, name in columns.items()}
    return summarize(soup, f"{prefix}soup") | summarize(best_single, f"{prefix}best_single") | gains


def _gain(soups: Sequence[Soup]) -> tuple[pd.DataFrame, list[str]]:
    """Best single (first) against soup (second): table, and sentences, the mean over regions first.

    The mean decides; the regions are told beside it, corrected for their number.
    """
    single = pd.concat([made.verdict.best_single for made in soups], ignore_index=True)
    mixed = pd.concat([made.verdict.soup for made in soups], ignore_index=True)
    patients = {case: patient for made in soups for case, patient in made.patients.items()}
    overall = compare(mean_over_regions(single), mean_over_regions(mixed), patients)
    table = pd.concat([overall, compare(single, mixed, patients)], ignore_index=True)
    return table, [sentence(row, BEST_SINGLE, "soup") for row in overall.to_dict("records")]


def mean_over_regions(table: pd.DataFrame) -> pd.DataFrame:
    """Mean Dice of every case over its scored regions, as rows of a region ``mean``."""
    means = table.groupby("case", sort=False)["dice"].mean().reset_index()
    return means.assign(region="mean")


def _gain_title(made: Soup) -> str:
    if made.prefix:
        return "Soup (second) against best single (first), on cases that chose or trained them"
    return "Soup (second) against best single checkpoint (first), on unseen cases"


def _what_is_in(made: Soup, recipe: Recipe) -> str:
    amounts = made.verdict.published.choice.amounts
    used = [
        f"{parent.name} ({amount / sum(amounts):.2f})"
        for parent, amount in zip(made.group.parents, amounts, strict=True)
        if amount > 0
    ]
    many = f"{len(used)} of {len(amounts)} checkpoints"
    if len(used) == 1:
        return f"no soup beats {used[0].rsplit(' (', 1)[0]} alone, so that is what is published"
    return f"{recipe.kind} soup of {many}: {', '.join(used)}"


def _notes(made: Soup, is_refreshed: bool) -> list[str]:
    notes = []
    if made.verdict.is_cross_fitted:
        notes.append(
            "each case is reported by the soup and the single checkpoint that the other half of "
            "the patients chose; the published soup is chosen on all"
        )
    elif made.prefix:
        notes.append("these cases chose or trained the soup: its scores are not of unseen cases")
    if is_refreshed:
        notes.append(
            f"batch norms gathered their statistics anew over {STATISTICS_BATCHES} batches of "
            "training patches"
        )
    return notes


def report_all(soups: Sequence[Soup], recipe: Recipe, tracker: Tracker) -> None:
    """All folds together."""
    prefix = "seen/" if any(made.prefix for made in soups) else ""
    single = pd.concat([made.verdict.best_single for made in soups], ignore_index=True)
    mixed = pd.concat(
        [made.verdict.soup.assign(fold=made.group.key) for made in soups], ignore_index=True
    )
    gain, lines = _gain(soups)
    print_table(main_columns(gain), _gain_title(soups[0]))
    for line in lines:
        say(f"all together: {line}" if len(soups) > 1 else line)
    tracker.log_metrics(_metrics(mixed, single, gain, prefix), step=0)
    tracker.log_table(mixed, f"scores/{'seen' if prefix else 'out_of_fold'}")
    tracker.log_table(gain, "gain")
    tracker.log_json({made.group.key: _record(made, recipe) for made in soups}, "soup.json")
    figures = [
        soup_figure(
            bars_of(made, recipe),
            f"{recipe.kind} soup, {made.group.title}: mean Dice over {len(made.cases.ids)} cases",
        )
        for made in soups
    ]
    tracker.log_figure([*figures, table_figure(main_columns(gain), _gain_title(soups[0]))], "soup")
    tracker.describe("\n".join(f"- {line}" for line in lines))
