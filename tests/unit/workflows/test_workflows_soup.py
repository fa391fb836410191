"""Which checkpoints make a soup, on which cases it is chosen, and on which it is reported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bratsml.config import with_overrides
from bratsml.data.folds import Split
from bratsml.ensembling.soup import Ingredient
from bratsml.errors import CheckpointError, ConfigError
from bratsml.experiment import Experiment
from bratsml.labels import get_scheme
from bratsml.training.checkpoint import load_checkpoint, save_checkpoint
from bratsml.workflows import soup as command
from bratsml.workflows.soup_choice import Recipe, Scoreboard, halves, judge
from bratsml.workflows.soup_ingredients import Cases, Group, Parent, Sources, from_files
from bratsml.workflows.soup_report import mean_over_regions


class OneWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))


def board_of(
    weights: Sequence[float], wanted: dict[str, float], **more: Any
) -> tuple[Scoreboard, list[tuple[str, float]]]:
    """Networks of one weight; a case's Dice is 1 minus the distance to the weight it wants."""
    model = OneWeight()
    scored: list[tuple[str, float]] = []

    def rows(case_id: str, output: object, whole: float) -> list[dict[str, object]]:
        scored.append((case_id, whole))
        dice = 1 - abs(whole - wanted[case_id])
        return [{"case": case_id, "region": "WT", "dice": dice, "hd95_mm": 0.0}]

    store = SimpleNamespace(image=lambda case: None, meta=lambda case: None)
    predictor: Any = SimpleNamespace(
        model=model, output=None, own_grid=lambda image, meta: model.w.item()
    )
    scorer: Any = SimpleNamespace(store=store, rows=rows)
    ingredients = [
        Ingredient(str(n), lambda value=value: {"w": torch.tensor([value])})
        for n, value in enumerate(weights)
    ]
    return Scoreboard(ingredients, predictor, scorer, **more), scored


def test_every_case_is_reported_by_what_the_other_half_chose() -> None:
    # a and b want 0, c and d want 1: each half chooses what is worst for the other
    board, scored = board_of([0.0, 1.0], {"a": 0.0, "b": 0.0, "c": 1.0, "d": 1.0})
    verdict = judge(board, Recipe("greedy"), ["a", "b", "c", "d"], (["a", "b"], ["c", "d"]))
    assert [part.choice.amounts for part in verdict.parts] == [(1.0, 0.0), (0.0, 1.0)]
    assert dict(zip(verdict.soup["case"], verdict.soup["dice"], strict=True)) == {
        "a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0,
    }  # fmt: skip
    assert verdict.best_single["dice"].tolist() == [0.0] * 4
    # on all together a mixture of both is as good as either, so greedy stays with the first
    assert verdict.published.choice.amounts == (1.0, 0.0)
    assert verdict.uniform["dice"].tolist() == [0.5] * 4
    assert len(scored) == len(set(scored)) == 3 * 4  # two networks and their mean, each case once


def test_a_soup_that_is_better_everywhere_is_found_and_reported() -> None:
    wanted = {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5}
    board, _ = board_of([0.0, 1.0, 9.0], wanted)
    verdict = judge(board, Recipe("greedy"), list(wanted), (["a", "b"], ["c", "d"]))
    assert verdict.published.choice.amounts == (1.0, 1.0, 0.0)
    assert verdict.soup["dice"].tolist() == [1.0] * 4
    assert verdict.best_single["dice"].tolist() == [0.5] * 4
    learned = judge(board, Recipe("learned", 40), list(wanted), (["a", "b"], ["c", "d"]))
    assert learned.soup["dice"].min() > 0.9
    together = judge(board, Recipe("greedy"), list(wanted), None)
    assert not together.is_cross_fitted
    assert together.parts == ()
    assert together.soup["dice"].tolist() == [1.0] * 4


@pytest.mark.parametrize("kind", ["uniform", "greedy", "learned"])
@pytest.mark.parametrize("parts", [(["a"], ["b", "c"]), None])
def test_the_progress_bar_is_never_too_short(kind: Any, parts: Any) -> None:
    heard: list[int] = []
    wanted = {"a": 0.2, "b": 0.4, "c": 0.8}
    board, _ = board_of([0.0, 0.5, 1.0], wanted, heard=lambda: heard.append(1))
    recipe = Recipe(kind, evaluations=7)
    judge(board, recipe, list(wanted), parts)
    assert len(heard) <= recipe.most_scorings(3, 3, parts is not None)
    if kind != "learned":  # whose search may end before its budget does
        assert len(heard) == recipe.most_scorings(3, 3, parts is not None)


def test_batch_norms_are_mended_in_mixtures_alone() -> None:
    mended: list[float] = []
    board, _ = board_of([0.0, 1.0], {"a": 0.0}, refresh=lambda model: mended.append(model.w.item()))
    board.score((1.0, 0.0), ["a"])
    board.score((0.0, 3.0), ["a"])
    assert mended == []
    board.score((1.0, 3.0), ["a"])
    assert mended == [0.75]


def test_visits_of_a_patient_stay_in_one_half() -> None:
    patients = {f"p{number}-{visit}": f"p{number}" for number in range(7) for visit in range(2)}
    found = halves(patients, seed=3)
    assert found is not None
    first, second = ({patients[case] for case in half} for half in found)
    assert not first & second
    assert sorted(len(half) for half in found) == [6, 8]
    assert sorted(found[0] + found[1]) == sorted(patients)
    assert halves(dict(reversed(patients.items())), seed=3) == found
    assert halves(patients, seed=4) != found
    assert halves({"p0-0": "p0", "p0-1": "p0"}, seed=0) is None


FIRST = Split(test=("t",), folds=(("a", "b"), ("c", "d"), ("e",)))
OTHER = Split(test=("t",), folds=(("a", "e"), ("b", "c", "d")))


def parent(name: str, split: Split, fold: int, score: float = 0.5) -> Parent:
    config = {"fold": fold, "split_hash": split.hash}
    return Parent(name, Path(name), "", "", "", 0, score, config, Experiment())


@pytest.mark.parametrize(
    ("parents", "ids", "training", "unseen", "left_out"),
    [
        ([(FIRST, 0), (FIRST, 0)], "ab", "cde", True, 0),
        ([(FIRST, 0), (FIRST, 1)], "abcd", "abcde", False, 0),
        ([(FIRST, 0), (OTHER, 0)], "a", "bcde", True, 2),
    ],
)
def test_cases_are_those_that_no_checkpoint_was_trained_on(
    parents: list[tuple[Split, int]], ids: str, training: str, unseen: bool, left_out: int
) -> None:
    group = Group("x", tuple(parent(str(n), *each) for n, each in enumerate(parents)))
    splits = {split.hash: split for split in (FIRST, OTHER)}
    store: Any = SimpleNamespace(case_ids=("a", "b", "c", "d", "e", "t"))
    cases = Sources((), (group,), splits, Path()).cases(group, store)
    assert "".join(cases.ids) == ids
    assert "".join(cases.training) == training
    assert cases.are_unseen is unseen
    assert cases.num_left_out == left_out


def write(path: Path, fold: int = 0, seed: int = 0, **overrides: Any) -> str:
    tiny = {"model": {"channels": [4, 8], "strides": [2]}, "data": {"label_scheme": "brats2021"}}
    experiment = with_overrides(with_overrides(Experiment(), tiny), overrides)
    torch.manual_seed(seed)
    scheme = get_scheme("brats2021")
    model = experiment.build_model(experiment.output.build(scheme).num_channels)
    config = {"experiment": experiment.tree(), "fold": fold, "split_hash": FIRST.hash}
    state = {"config": config, "model": model.state_dict(), "ema": None}
    save_checkpoint(path, {**state, "best": {"score": 0.1 * seed, "epoch": seed}})
    return str(path)


def test_files_become_one_group_under_names_of_their_own(tmp_path: Path) -> None:
    files = [write(tmp_path / str(n) / "best.pt", seed=n) for n in range(2)]
    group = from_files(files, tmp_path).groups[0]
    assert group.key == "fold_0"
    assert [each.name for each in group.parents] == ["best 1", "best 2"]
    assert [each.epoch for each in group.parents] == [0, 1]
    assert command._best_in_training(group) == 1
    mixed = from_files([files[0], write(tmp_path / "c.pt", fold=1)], tmp_path).groups[0]
    assert mixed.key == "soup"


def test_the_average_that_validation_used_is_what_is_mixed(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.pt") for n in range(2)]
    state = load_checkpoint(tmp_path / "0.pt")
    average = {name: torch.full_like(value, 7) for name, value in state["model"].items()}
    save_checkpoint(tmp_path / "0.pt", {**state, "ema": average})
    group = from_files(files, tmp_path).groups[0]
    first, second = (each.ingredient().load() for each in group.parents)
    assert all((value == 7).all() for value in first.values())
    assert any((value != 7).any() for value in second.values())


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"model": {"channels": [4, 12]}}, CheckpointError, "other is of another architecture"),
        ({"model": {"norm": "batch"}}, CheckpointError, "only other has the tensor"),
        ({"output": {"kind": "classes"}}, ConfigError, "one and other cannot be averaged"),
        ({"model": {"res_units": 1}}, CheckpointError, "other is of another architecture"),
    ],
)
def test_other_architectures_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    one = write(tmp_path / "one.pt")
    other = write(tmp_path / "other.pt", **changes)
    with pytest.raises(error, match=said):
        from_files([one, other], tmp_path)


def test_equal_shapes_of_another_meaning_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "one.pt")
    assert from_files([one, write(tmp_path / "two.pt", model={"dropout": 0.3})], tmp_path)
    state = load_checkpoint(Path(one))
    tree = state["config"]["experiment"]
    tree["model"]["strides"] = [1]
    save_checkpoint(tmp_path / "other.pt", state)
    with pytest.raises(ConfigError, match=r"other is of another architecture.*model\.strides is"):
        from_files([one, str(tmp_path / "other.pt")], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"kind": "salty"}, "kind must be one of uniform, greedy, learned, received 'salty'"),
        ({"evaluations": "0"}, "evaluations must be a whole number of at least 1"),
        ({"runs": ["a"], "checkpoints": ["b"]}, "either runs or checkpoint files"),
        ({"checkpoints": ["b"], "fold": "1"}, "leave it out with files"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(arguments: dict[str, Any], said: str) -> None:
    nothing = {"runs": [], "checkpoints": [], "data": "", "fold": "", "kind": "", "evaluations": ""}
    with pytest.raises(ConfigError, match=said):
        command.soup(**{**nothing, **arguments})


def test_one_patient_can_only_judge_what_nobody_chose() -> None:
    group = Group("fold_3", ())
    with pytest.raises(ConfigError, match="fold 3 validates on one patient"):
        command._accept_one_patient(group, Recipe("greedy"))
    command._accept_one_patient(group, Recipe("uniform"))


def test_the_mean_over_regions_leaves_out_what_has_no_score() -> None:
    table = pd.DataFrame(
        {"case": ["b", "b", "a", "a"], "region": ["ET", "WT"] * 2, "dice": [0.2, 0.6, np.nan, 0.9]}
    )
    means = mean_over_regions(table)
    assert means["case"].tolist() == ["b", "a"]
    assert means["dice"].tolist() == pytest.approx([0.4, 0.9])
    assert set(means["region"]) == {"mean"}


def test_one_patient_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {"fold_0": ("a", "b"), "fold_1": ("c", "d")}  # c and d are visits of one patient
    store = SimpleNamespace(meta=lambda case: SimpleNamespace(patient=case.replace("d", "c")))
    sources = SimpleNamespace(
        groups=[Group(key, ()) for key in cases],
        store=lambda data: store,
        cases=lambda group, store: Cases(cases[group.key], (), True, 0),
    )
    monkeypatch.setattr(command, "_sources", lambda *_: sources)
    monkeypatch.setattr(command, "open_run", lambda **_: pytest.fail("work has begun"))
    with pytest.raises(ConfigError, match="fold 1 validates on one patient"):
        command.soup([], [], "", "", "greedy", "")
