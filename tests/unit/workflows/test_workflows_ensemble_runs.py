"""Ensembles across runs, on runs made of arrays: who is weighted by whom, and who is refused."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bratsml.ensembling.combine import COMBINATIONS, Combination
from bratsml.ensembling.fit import fit_weights
from bratsml.errors import ConfigError, DataError
from bratsml.evaluation.evaluate import EvaluationConfig
from bratsml.labels import get_scheme
from bratsml.models.output import OutputConfig
from bratsml.workflows import ensemble_runs as workflow
from bratsml.workflows import ensemble_scores
from bratsml.workflows.ensemble_members import (
    RunsTogether,
    in_order,
    require_same_cases,
    require_same_regions,
)
from bratsml.workflows.out_of_fold import OutOfFold

SHAPE = (8, 7, 6)
REGIONS = ("ET", "TC", "WT")
SCHEME = get_scheme("brats2023")
CASES = tuple(f"BraTS-GLI-{number:05d}-000" for number in range(6))


def label_map_of(case_id: str) -> np.ndarray:
    """Nested boxes that differ from case to case."""
    found = np.zeros(SHAPE, dtype=np.uint8)
    size = 3 + CASES.index(case_id) % 3
    for value, margin in ((2, 0), (1, 1), (3, 2)):
        found[1 + margin : 1 + size, 1 + margin : 6, 1 + margin : 6] = value
    return found


class FakeStore:
    def __init__(self, source_hash: str = "same") -> None:
        self.source_hash = source_hash
        self.label_scheme = SCHEME.name

    def meta(self, case_id: str) -> Any:
        return SimpleNamespace(
            patient=case_id[:-4],
            original_shape=SHAPE,
            spacing_mm=(1.0, 1.0, 1.0),
            source_hash=self.source_hash,
        )

    def reference(self, case_id: str) -> np.ndarray:
        return label_map_of(case_id)


class FakeRun(OutOfFold):
    """Sees the truth through noise of its own."""

    def probabilities(self, fold: int, case_id: str) -> np.ndarray:
        assert case_id in self.folds[fold]
        seed = [self.experiment.seed, CASES.index(case_id)]
        truth = SCHEME.region_stack(label_map_of(case_id), self.output.regions)
        noise = np.random.default_rng(seed).normal(0, self.experiment.noise, SHAPE)
        return np.clip(0.2 + 0.6 * truth + noise, 0, 1).astype(np.float32)

    def label_map(self, fold: int, case_id: str) -> np.ndarray:
        masks = self.probabilities(fold, case_id) > 0.5
        self.regions.grow(masks)
        return SCHEME.label_map(masks, self.output.regions)


def fake_run(
    seed: int, noise: float, folds: int = 2, regions: tuple[str, ...] = REGIONS, **named: Any
) -> FakeRun:
    experiment: Any = SimpleNamespace(
        seed=seed, noise=noise, evaluation=EvaluationConfig(), postprocess=()
    )
    store: Any = named.get("store", FakeStore())
    source: Any = SimpleNamespace(run_id=f"{seed}" * 32, name=f"run {seed}")
    output = OutputConfig(regions=regions).build(named.get("scheme", SCHEME))
    parts = tuple(CASES[start::folds] for start in range(folds))
    return FakeRun(source, experiment, store, output, parts, None)  # type: ignore[arg-type]


def runs_together(*runs: FakeRun) -> RunsTogether:
    return RunsTogether(runs, tuple(run.source.name for run in runs), ())


@pytest.fixture(scope="module", autouse=True)
def _no_surfaces() -> Iterator[None]:
    """HD95 has tests of its own, and takes the most time here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bratsml.evaluation.evaluate.hausdorff95_mm", lambda *arguments: 1.0)
        yield


def three_runs() -> RunsTogether:
    """Folds that differ, regions in another order."""
    return runs_together(
        fake_run(0, 0.3), fake_run(1, 0.4, folds=3, regions=("WT", "ET", "TC")), fake_run(2, 0.5)
    )


@pytest.fixture(scope="module")
def together() -> RunsTogether:
    return three_runs()


@pytest.fixture(scope="module")
def scores(together: RunsTogether, _no_surfaces: None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of the mean of probabilities: models and combinations, smaller subsets."""
    return ensemble_scores.score_out_of_fold(together, "probabilities", seed=0)[:2]


@pytest.mark.parametrize("kind", ["logits", "fitted", "staple"])
def test_members_and_combinations_out_of_fold(together: RunsTogether, kind: Combination) -> None:
    table, subset_table, fitted = ensemble_scores.score_out_of_fold(together, kind, seed=0)
    assert table.groupby("model").size().eq(6 * 3).all()
    others = {f"ensemble ({other})" for other in COMBINATIONS if other != kind}
    assert set(table["model"]) == {"run 0", "run 1", "run 2", "ensemble", *others}
    assert set(subset_table["subset"]) == {(0, 1), (0, 2), (1, 2)}
    # the means of three are better than the best of them
    if kind != "staple":
        means = table.groupby("model")["dice"].mean()
        assert means["ensemble"] > means[["run 0", "run 1", "run 2"]].max()
    assert fitted.weights.shape == (3, 3)
    assert (fitted.weights.argmax(axis=0) == 0).all()  # the first run has the least noise


def test_a_member_scores_as_the_mask_of_its_own_probabilities(
    together: RunsTogether, scores
) -> None:
    table, _ = scores
    run = together.works[1]
    case = CASES[4]
    masks = run.probabilities(run.fold_of(case), case) > 0.5
    truth = SCHEME.region_stack(label_map_of(case), run.output.regions)
    expected = 2 * (masks[0] & truth[0]).sum() / (masks[0].sum() + truth[0].sum())
    row = table[(table.model == "run 1") & (table.case == case) & (table.region == "WT")]
    # noise is the same for all regions, so the masks are nested already
    assert row["dice"].item() == pytest.approx(expected)


def test_subset_dice_is_that_of_the_two_runs_alone(together: RunsTogether, scores) -> None:
    _, subset_table = scores
    pair = runs_together(together.works[0], together.works[2])  # type: ignore[arg-type]
    alone, _, _ = ensemble_scores.score_out_of_fold(pair, "probabilities", seed=0)
    ours = subset_table[subset_table["subset"] == (0, 2)].set_index(["case", "region"])["dice"]
    theirs = alone[alone["model"] == "ensemble"].set_index(["case", "region"])["dice"]
    pd.testing.assert_series_equal(ours.sort_index(), theirs.sort_index())


def test_a_case_is_weighted_by_what_was_fitted_without_its_patient(together: RunsTogether) -> None:
    sums = ensemble_scores.add_up(together)
    fitted = ensemble_scores.fit_all(together, sums, [(0, 1, 2)], seed=1)
    for case_id in CASES:
        group = fitted.groups[case_id]
        rest = [s for s in sums if fitted.groups[s.case_id] != group]
        assert case_id not in {s.case_id for s in rest}
        np.testing.assert_array_equal(fitted.for_case(case_id, (0, 1, 2)), fit_weights(rest))
    np.testing.assert_array_equal(fitted.weights, fit_weights(sums))


def test_the_verdict_is_against_the_best_run_over_patients(together: RunsTogether, scores) -> None:
    table, _ = scores
    verdict = workflow.judge(table, together.names, together.patients, seed=0)
    assert verdict.best == "run 0"
    by_model = table.groupby("model")["dice"].mean()
    assert verdict.mean_gain == pytest.approx(by_model["ensemble"] - by_model["run 0"])
    low, high = verdict.interval
    assert low < verdict.mean_gain < high
    assert set(verdict.gains["combination"]) == set(table["model"]) - {*together.names}
    row = verdict.gains.query("combination == 'ensemble' and metric == 'dice' and region == 'WT'")
    assert row["mean_first"].item() == pytest.approx(
        table[(table.model == "run 0") & (table.region == "WT")]["dice"].mean()
    )


def test_the_pareto_table_adds_the_folds_up(together: RunsTogether, scores) -> None:
    table, subset_table = scores
    pareto = workflow.score_subsets(together, table, subset_table, (2.0, 3.0, 4.0))
    assert pareto["num_models"].tolist() == [1, 1, 1, 2, 2, 2, 3]
    assert pareto["num_networks"].tolist() == [2, 3, 2, 5, 4, 5, 7]
    assert pareto["seconds_per_case"].tolist() == [2, 3, 4, 5, 6, 7, 9]
    assert pareto["dice"].iloc[-1] == workflow.mean_dice(table[table["model"] == "ensemble"])


def test_the_file_holds_fitted_weights_and_equal_ones_where_none_count(
    together: RunsTogether,
) -> None:
    weights = np.array([[0.5, 0.6, 0.2], [0.25, 0.4, 0.8], [0.25, 0.0, 0.0]])
    file = workflow.ensemble_file(together, "fitted", weights)
    np.testing.assert_allclose(file.weights, weights)
    assert file.members[1].weights == {"ET": 0.25, "TC": 0.4, "WT": 0.8}
    assert file.members[2].run == "2" * 32
    equal = workflow.ensemble_file(together, "logits", weights)
    np.testing.assert_allclose(equal.weights, np.full((3, 3), 1 / 3))


def test_regions_come_in_the_order_of_the_first_run() -> None:
    stack = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1) - 0.5
    found = in_order(stack, ("WT", "ET", "TC"), REGIONS)
    assert found.ravel().tolist() == [0.5, 1.0, 0.0]  # and within 0 and 1


def test_other_cases_are_named() -> None:
    with pytest.raises(DataError, match="c, d: 2 cases have no out-of-fold prediction in first"):
        require_same_cases([{"a"}, {"a", "c", "d"}], ["first", "second"])
    with pytest.raises(DataError, match="b: 1 case has no out-of-fold prediction in third"):
        require_same_cases([{"a", "b"}, {"a", "b"}, {"a"}], ["first", "second", "third"])


def test_a_missing_region_is_named() -> None:
    one, other = fake_run(0, 0.1), fake_run(1, 0.1, regions=("TC", "WT"))
    sentence = "b does not predict region ET, which a does"
    with pytest.raises(ConfigError, match=sentence):
        require_same_regions([one, other], ["a", "b"])
    with pytest.raises(ConfigError, match=sentence):
        require_same_regions([other, one], ["b", "a"])


def test_a_region_of_other_label_values_is_refused() -> None:
    other = fake_run(1, 0.1, scheme=get_scheme("brats2021"))
    with pytest.raises(ConfigError, match="region ET unites label values 3 in a and 4 in b"):
        require_same_regions([fake_run(0, 0.1), other], ["a", "b"])


def test_other_files_under_the_same_id_are_refused() -> None:
    together = runs_together(fake_run(0, 0.1), fake_run(1, 0.1, store=FakeStore("changed")))
    with pytest.raises(DataError, match=f"{CASES[0]}: its files are other ones in run 1"):
        together.require_same_files(together.case_ids)


def test_one_patient_alone_cannot_be_left_out() -> None:
    together = three_runs()
    sums = ensemble_scores.add_up(together)
    together.__dict__["patients"] = dict.fromkeys(CASES, "one")
    with pytest.raises(ConfigError, match="all cases are of one patient"):
        ensemble_scores.fit_all(together, sums, [(0, 1, 2)], seed=0)


def test_the_test_split_must_be_shared(
    together: RunsTogether, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hold_out(*tests: list[str]) -> None:
        trees = {f"{i}" * 32: {"folds": [["x"]], "test": test} for i, test in enumerate(tests)}
        monkeypatch.setattr(
            "bratsml.workflows.ensemble_members.read_json_artifact",
            lambda source, name, root: trees[source.run_id],
        )

    hold_out([CASES[1], CASES[0]], [CASES[0], CASES[1]], [CASES[0], CASES[1]])
    assert together.test_cases() == (CASES[1], CASES[0])
    hold_out([CASES[0]], [CASES[0]], [CASES[1]])
    with pytest.raises(ConfigError, match="run 2 and run 0 hold out other test cases"):
        together.test_cases()
    hold_out([], [], [])
    with pytest.raises(ConfigError, match="held out no test cases"):
        together.test_cases()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": "a,b", "run": "c"}, "run and average are about the folds of one cv run"),
        ({"runs": "a,b", "average": "logits"}, "run and average are about the folds"),
        ({"combine": "fitted"}, "name them: --runs RUN,RUN"),
        ({"test": True}, "name them: --runs RUN,RUN"),
        ({"runs": "a"}, "two different cv runs or more"),
        ({"runs": ",".join(map(str, range(63)))}, "up to 62 runs"),
        ({"runs": "a,a"}, "two different cv runs or more"),
        ({"runs": "a,b", "combine": "voting"}, "combine must be one of probabilities, logits"),
        ({"runs": "a,b", "seed": "-1"}, "seed must be a whole number of at least 0"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: dict[str, Any], message: str) -> None:
    names = ("run", "runs", "data", "average", "combine", "postprocess", "seed")
    given = dict.fromkeys(names, "") | {"test": False} | arguments
    with pytest.raises(ConfigError, match=message):
        workflow.ensemble_command(**given)
