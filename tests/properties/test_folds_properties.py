"""Splits of arbitrary datasets: complete, by patient, balanced, independent of order."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bratsml.data.folds import Split, SplitConfig, check_split, make_split
from bratsml.errors import ConfigError


@st.composite
def datasets(draw: st.DrawFn) -> list[SimpleNamespace]:
    cases = []
    for number in range(draw(st.integers(2, 25))):
        cohort = draw(st.sampled_from(["GLI", "SSA"]))
        for visit in range(draw(st.integers(1, 3))):
            volumes = {"WT": draw(st.floats(0, 200)), "ET": draw(st.sampled_from([0.0, 4.0]))}
            cases.append(
                SimpleNamespace(
                    id=f"{cohort}{number}-{visit}",
                    patient=f"{cohort}{number}",
                    cohort=cohort,
                    volume_ml=volumes,
                )
            )
    return cases


configs = st.builds(
    SplitConfig,
    folds=st.integers(2, 5),
    test_fraction=st.sampled_from([0.0, 0.1, 0.3]),
    seed=st.integers(0, 100),
)


def split_or_skip(cases: list[SimpleNamespace], config: SplitConfig) -> Split:
    try:
        return make_split(cases, config)
    except ConfigError:
        assume(False)
        raise


@settings(deadline=None, max_examples=60)
@given(datasets(), configs, st.randoms(use_true_random=False))
def test_is_complete_by_patient_and_independent_of_order(cases, config, random) -> None:
    split = split_or_skip(cases, config)
    check_split(split, cases)
    shuffled = list(cases)
    random.shuffle(shuffled)
    assert make_split(shuffled, config) == split
    assert Split.from_tree(split.to_tree()) == split


@settings(deadline=None, max_examples=60)
@given(datasets(), configs)
def test_folds_differ_by_one_patient_at_most_in_every_stratum(cases, config) -> None:
    split = split_or_skip(cases, config)
    patient_of = {case.id: case.patient for case in cases}
    has_et = {c.patient for c in cases if c.volume_ml["ET"] > 0}
    strata = [
        Counter((p[:3], p in has_et) for p in {patient_of[c] for c in f}) for f in split.folds
    ]
    totals = [stratum.total() for stratum in strata]
    assert max(totals) - min(totals) <= 1
    for stratum in set().union(*strata):
        counts = [counter[stratum] for counter in strata]
        assert max(counts) - min(counts) <= 1


@settings(deadline=None, max_examples=60)
@given(datasets(), configs)
def test_no_training_case_shares_a_patient_with_validation_or_test(cases, config) -> None:
    split = split_or_skip(cases, config)
    patient_of = {case.id: case.patient for case in cases}
    for fold in range(len(split.folds)):
        trained = {patient_of[case_id] for case_id in split.training(fold)}
        assert not trained & {patient_of[c] for c in (*split.validation(fold), *split.test)}
