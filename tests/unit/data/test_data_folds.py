"""Splits: what goes where, what is refused, and that chance is under control."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bratsml.data.folds import Split, SplitConfig, check_split, make_split
from bratsml.errors import ConfigError


@dataclass(frozen=True)
class Case:
    id: str
    patient: str
    cohort: str = "GLI"
    volume_ml: dict[str, float] = field(default_factory=lambda: {"WT": 50.0, "ET": 5.0})


def one_visit_each(count: int) -> list[Case]:
    return [
        Case(f"c{i:02d}", f"p{i:02d}", volume_ml={"WT": float(i), "ET": 1.0}) for i in range(count)
    ]


class TestMakeSplit:
    def test_uses_every_case_once(self) -> None:
        cases = one_visit_each(23)
        split = make_split(cases, SplitConfig(folds=4))
        everywhere = sorted(split.test + tuple(c for fold in split.folds for c in fold))
        assert everywhere == [case.id for case in cases]

    @pytest.mark.parametrize(
        ("patients", "fraction", "held_out"),
        [(3, 0.1, 0), (4, 0.1, 1), (6, 0.1, 1), (25, 0.1, 3), (40, 0.25, 10), (40, 0.0, 0)],
    )
    def test_holds_out_the_share_of_patients(
        self, patients: int, fraction: float, held_out: int
    ) -> None:
        # 25 * 0.1 = 2.5 is rounded up; below 4 patients none can be spared
        split = make_split(one_visit_each(patients), SplitConfig(folds=2, test_fraction=fraction))
        assert len(split.test) == held_out

    def test_never_trains_or_validates_on_the_test_cases(self) -> None:
        split = make_split(one_visit_each(30), SplitConfig(folds=3))
        for fold in range(3):
            seen = set(split.training(fold)) | set(split.validation(fold))
            assert len(seen) == 27
            assert not seen & set(split.test)

    def test_keeps_the_visits_of_a_patient_together(self) -> None:
        cases = [Case(f"p{i}-{visit}", f"p{i}") for i in range(12) for visit in range(1 + i % 3)]
        split = make_split(cases, SplitConfig(folds=3))
        for patient in {case.patient for case in cases}:
            places = {
                name
                for name, group in split.groups()
                for case in cases
                if case.patient == patient and case.id in group
            }
            assert len(places) == 1, patient

    def test_gives_every_fold_its_share_without_enhancing_tumour(self) -> None:
        cases = one_visit_each(40) + [
            Case(f"n{i}", f"n{i}", volume_ml={"WT": 30.0, "ET": 0.0}) for i in range(5)
        ]
        split = make_split(cases, SplitConfig(folds=5, test_fraction=0))
        assert [sum(c.startswith("n") for c in fold) for fold in split.folds] == [1, 1, 1, 1, 1]

    def test_gives_every_fold_its_share_of_each_cohort(self) -> None:
        cases = [Case(f"{cohort}{i}", f"{cohort}{i}", cohort) for cohort in "AB" for i in range(6)]
        split = make_split(cases, SplitConfig(folds=3, test_fraction=0))
        assert all(sum(c.startswith("A") for c in fold) == 2 for fold in split.folds)

    def test_gives_every_fold_small_and_large_tumours(self) -> None:
        # volumes 0..29: each round deals three neighbouring volumes, one to each fold, so the sums
        # of two folds differ by at most 2 per round
        split = make_split(one_visit_each(30), SplitConfig(folds=3, test_fraction=0))
        sums = [sum(int(case_id[1:]) for case_id in fold) for fold in split.folds]
        assert max(sums) - min(sums) <= 20

    def test_takes_test_cases_from_all_sizes(self) -> None:
        split = make_split(one_visit_each(30), SplitConfig(folds=3))
        assert sorted(int(case_id[1:]) // 10 for case_id in split.test) == [0, 1, 2]

    def test_does_not_depend_on_the_order_of_cases(self) -> None:
        cases = one_visit_each(17)
        assert make_split(cases, SplitConfig()) == make_split(cases[::-1], SplitConfig())

    def test_depends_on_the_seed(self) -> None:
        cases = one_visit_each(17)
        assert make_split(cases, SplitConfig(seed=1)) != make_split(cases, SplitConfig(seed=2))

    def test_accepts_cases_without_volumes(self) -> None:
        cases = [Case(f"c{i}", f"c{i}", volume_ml={}) for i in range(6)]
        assert len(make_split(cases, SplitConfig(folds=2)).test) == 1

    def test_refuses_more_folds_than_patients(self) -> None:
        with pytest.raises(ConfigError, match=r"5 folds need .* there are 4 besides 1 held out"):
            make_split(one_visit_each(5), SplitConfig(folds=5))

    def test_refuses_a_case_twice(self) -> None:
        with pytest.raises(ConfigError, match="c00 more than once"):
            make_split([*one_visit_each(5), Case("c00", "p00")], SplitConfig(folds=2))


class TestSplit:
    SPLIT = Split(test=("t",), folds=(("b", "a"), ("c",)), training_only=("x",))

    def test_trains_on_the_other_folds_and_training_only(self) -> None:
        assert self.SPLIT.training(0) == ("c", "x")
        assert self.SPLIT.validation(0) == ("a", "b")

    @pytest.mark.parametrize("fold", [-1, 2])
    def test_refuses_a_fold_that_is_not_there(self, fold: int) -> None:
        with pytest.raises(ConfigError, match="use 0 to 1"):
            self.SPLIT.training(fold)

    def test_comes_back_from_json(self, tmp_path: Path) -> None:
        self.SPLIT.to_json(tmp_path / "split.json")
        assert Split.from_json(tmp_path / "split.json") == self.SPLIT

    def test_hash_ignores_the_order_within_a_group(self) -> None:
        assert Split(("t",), (("a", "b"), ("c",)), ("x",)).hash == self.SPLIT.hash

    def test_hash_tells_folds_apart(self) -> None:
        assert Split(("t",), (("c",), ("b", "a")), ("x",)).hash != self.SPLIT.hash

    def test_refuses_a_file_changed_since(self, tmp_path: Path) -> None:
        tree = self.SPLIT.to_tree()
        tree["test"] = []
        (tmp_path / "split.json").write_text(json.dumps(tree))
        with pytest.raises(ConfigError, match=r"split\.json was changed after it was written"):
            Split.from_json(tmp_path / "split.json")

    def test_refuses_a_case_in_two_places(self) -> None:
        with pytest.raises(ConfigError, match="split names a more than once"):
            Split(test=("a",), folds=(("a",), ("b",)))

    @pytest.mark.parametrize(
        ("tree", "message"),
        [
            ({"folds": []}, "has no folds"),
            ({"folds": [["a"], "b"]}, "fold 1 in f must be a list"),
            ({"folds": [["a"]], "tset": []}, "'tset'"),
            ({"folds": [["a"]], "format": "other"}, "format 'other'"),
        ],
    )
    def test_refuses_trees_that_are_no_split(self, tree: dict, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Split.from_tree(tree, "f")


class TestCheckSplit:
    CASES = (Case("p1-0", "p1"), Case("p1-1", "p1"), Case("p2-0", "p2"), Case("p3-0", "p3"))

    def test_accepts_a_fitting_split(self) -> None:
        check_split(Split(("p3-0",), (("p1-0", "p1-1"), ("p2-0",))), self.CASES)

    def test_names_unknown_cases(self) -> None:
        split = Split((), (("p1-0", "p1-1"), ("p2-0", "p3-0", "zz")))
        with pytest.raises(ConfigError, match="names zz, which the dataset does not hold"):
            check_split(split, self.CASES)

    def test_names_missing_cases(self) -> None:
        with pytest.raises(ConfigError, match="does not say where p3-0 belong"):
            check_split(Split((), (("p1-0", "p1-1"), ("p2-0",))), self.CASES)

    @pytest.mark.parametrize(
        ("split", "where"),
        [
            (Split((), (("p1-0", "p3-0"), ("p1-1", "p2-0"))), "fold 1"),
            (Split(("p1-1",), (("p1-0", "p3-0"), ("p2-0",))), "test"),
            (Split((), (("p1-0", "p3-0"), ("p2-0",)), ("p1-1",)), "training only"),
        ],
    )
    def test_lists_the_pairs_of_a_torn_patient(self, split: Split, where: str) -> None:
        with pytest.raises(ConfigError) as caught:
            check_split(split, self.CASES, "my.json")
        assert f"p1: p1-0 (fold 0) and p1-1 ({where})" in str(caught.value)

    def test_refuses_an_empty_fold(self) -> None:
        split = Split((), (("p1-0", "p1-1", "p2-0", "p3-0"), ()))
        with pytest.raises(ConfigError, match="fold 1 of the split is empty"):
            check_split(split, self.CASES)

    def test_counts_what_it_does_not_list(self) -> None:
        split = Split((), (tuple(f"z{i}" for i in range(8)),))
        with pytest.raises(ConfigError, match="z4 and 3 more, which"):
            check_split(split, self.CASES)
