"""Which soup, and how good it is on cases that did not choose it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from bratsml.ensembling.soup import (
    Amounts,
    Choice,
    Ingredient,
    Kind,
    best_single,
    blend,
    greedy,
    learned,
    single,
    uniform,
)
from bratsml.evaluation.evaluate import case_table, summarize
from bratsml.evaluation.whole_cases import CaseScorer, Predictor


@dataclass
class Scoreboard:
    """Scores soups on cases; what was scored once is not scored again.

    Attributes:
        predictor: Its network takes the soup's weights; one network is in memory.
        copy_from: See :func:`bratsml.ensembling.soup.blend`.
        refresh: Mends the network's batch norms after mixing; ``None`` when it has none.
        heard: Told of every case that is asked for.
    """

    ingredients: Sequence[Ingredient]
    predictor: Predictor
    scorer: CaseScorer
    copy_from: int = 0
    refresh: Callable[[nn.Module], None] | None = None
    heard: Callable[[], None] = lambda: None
    _rows: dict[tuple[Amounts, str], list[dict[str, Any]]] = field(default_factory=dict)

    def table(self, amounts: Amounts, case_ids: Sequence[str]) -> pd.DataFrame:
        """Case x region table of a soup."""
        key = _proportions(amounts)
        missing = [case_id for case_id in case_ids if (key, case_id) not in self._rows]
        if missing:
            self.serve(amounts)
        rows: list[dict[str, Any]] = []
        for case_id in case_ids:
            if (key, case_id) not in self._rows:
                store = self.scorer.store
                whole = self.predictor.own_grid(store.image(case_id), store.meta(case_id))
                scored = self.scorer.rows(case_id, self.predictor.output, whole)
                self._rows[key, case_id] = scored
            rows += self._rows[key, case_id]
            self.heard()
        return case_table(rows)

    def score(self, amounts: Amounts, case_ids: Sequence[str]) -> float:
        """Mean Dice over regions and cases, as training scores an epoch; NaN without any."""
        return summarize(self.table(amounts, case_ids), "soup").get("soup/dice/mean", float("nan"))

    def serve(self, amounts: Amounts) -> nn.Module:
        """The network with a soup's weights in it."""
        model = self.predictor.model
        model.load_state_dict(blend(self.ingredients, amounts, self.copy_from))
        is_mixed = sum(amount > 0 for amount in amounts) > 1
        if self.refresh is not None and is_mixed:
            self.refresh(model)
        return model


@dataclass(frozen=True)
class Recipe:
    """How a soup is chosen.

    Attributes:
        evaluations: Soups that a search for learned weights may try.
    """

    kind: Kind
    evaluations: int = 20

    def most_scorings(self, num_ingredients: int, num_cases: int, is_cross_fitted: bool) -> int:
        """How often :func:`judge` asks for the score of a case, at most."""
        tries = {"uniform": 0, "greedy": num_ingredients - 1, "learned": self.evaluations}
        selections = 2 if is_cross_fitted else 1
        per_case = num_ingredients + selections * (num_ingredients + tries[self.kind]) + 4
        return per_case * num_cases


@dataclass(frozen=True)
class Selection:
    """What some cases choose.

    Attributes:
        best: Place of the best single ingredient.
        scores: Mean Dice of every ingredient alone on these cases.
    """

    case_ids: tuple[str, ...]
    scores: tuple[float, ...]
    best: int
    choice: Choice


@dataclass(frozen=True)
class Verdict:
    """A soup and its scores.

    Attributes:
        published: Chosen on all cases.
        parts: What each part of the cases chose, on which no case of it is reported.
        soup, best_single: Case x region tables, each case scored with what the other part chose.
        ingredients, uniform, chosen: Tables of every ingredient, of the uniform soup and of the
            published one, on all cases.
        is_cross_fitted: Whether ``soup`` and ``best_single`` hold what the above says; when cases
            cannot be divided or are not unseen anyway, they are chosen on the cases they score.
    """

    published: Selection
    parts: tuple[Selection, ...]
    soup: pd.DataFrame
    best_single: pd.DataFrame
    ingredients: tuple[pd.DataFrame, ...]
    uniform: pd.DataFrame
    chosen: pd.DataFrame
    is_cross_fitted: bool


def halves(
    patients: Mapping[str, str], seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Cases in two parts without a common patient, dealt out at random; ``None`` for one patient.

    Args:
        patients: Case to patient.
    """
    names = sorted(set(patients.values()))
    if len(names) < 2:
        return None
    order = np.random.default_rng(seed).permutation(len(names))
    first = {names[place] for place in order[::2]}
    cases = sorted(patients)
    return (
        tuple(case for case in cases if patients[case] in first),
        tuple(case for case in cases if patients[case] not in first),
    )


def select(board: Scoreboard, recipe: Recipe, case_ids: Sequence[str]) -> Selection:
    """What these cases choose: their best single ingredient and their soup."""
    num = len(board.ingredients)
    scores = tuple(board.score(single(num, place), case_ids) for place in range(num))

    def score_of(amounts: Amounts) -> float:
        return board.score(amounts, case_ids)

    if recipe.kind == "greedy":
        choice = greedy(scores, score_of)
    elif recipe.kind == "learned":
        choice = learned(scores, score_of, recipe.evaluations)
    else:
        choice = Choice(uniform(num), ())
    return Selection(tuple(case_ids), scores, best_single(scores), choice)


def judge(
    board: Scoreboard,
    recipe: Recipe,
    case_ids: Sequence[str],
    parts: tuple[Sequence[str], Sequence[str]] | None,
) -> Verdict:
    """Choose on each part and report on the other, then choose on all.

    Args:
        case_ids: Those of both parts.
        parts: ``None`` when the cases are reported by what they chose themselves.
    """
    num = len(board.ingredients)
    ingredients = tuple(board.table(single(num, place), case_ids) for place in range(num))
    selections = tuple(select(board, recipe, part) for part in parts or ())
    published = select(board, recipe, case_ids)
    soup, best = [], []
    if parts is None:
        pairs = [(published, case_ids)]
    else:
        pairs = list(zip(selections, reversed(parts), strict=True))
    for selection, reported in pairs:
        soup.append(board.table(selection.choice.amounts, reported))
        best.append(board.table(single(num, selection.best), reported))
    return Verdict(
        published=published,
        parts=selections,
        soup=pd.concat(soup, ignore_index=True),
        best_single=pd.concat(best, ignore_index=True),
        ingredients=ingredients,
        uniform=board.table(uniform(num), case_ids),
        chosen=board.table(published.choice.amounts, case_ids),
        is_cross_fitted=parts is not None,
    )


def _proportions(amounts: Amounts) -> Amounts:
    total = sum(amounts)
    return tuple(round(amount / total, 12) for amount in amounts)
