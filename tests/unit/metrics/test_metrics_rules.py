import math

import pytest
from lesions_by_definition import PARAMETERS

from bratsml.errors import ConfigError
from bratsml.labels import SCHEMES
from bratsml.metrics.rules import RULES, get_rule


def test_every_rule_of_the_challenges_is_there():
    assert RULES.keys() == PARAMETERS.keys()
    assert all(rule.name == name for name, rule in RULES.items())


@pytest.mark.parametrize("name", RULES)
def test_the_parameters_are_those_of_the_challenges(name):
    rule, known = RULES[name], PARAMETERS[name]
    assert rule.regions == known.regions
    for region in rule.tissues:
        assert rule.dilation_in(region) == known.d_of.get(region, known.d)
        assert rule.threshold_in(region) == known.t_of.get(region, known.t)
        assert list(rule.partners_of(region)) == known.merge.get(region, [])
    assert rule.penalty_mm == known.h
    assert rule.prediction_filter == (known.drop or "none")
    assert rule.count_false_lesions == known.punish_false
    assert bool(rule.tolerances_mm) == (name.startswith("brats2025") and not name.endswith("men"))


@pytest.mark.parametrize("name", RULES)
def test_its_regions_are_those_of_its_label_scheme(name):
    scheme = SCHEMES[RULES[name].label_scheme]
    derived = {"NETC"} if {"TC", "ET"} <= scheme.regions.keys() else set()
    assert set(RULES[name].tissues) <= scheme.regions.keys() | derived


def test_penalties_are_rounded_diagonals():
    assert math.ceil(math.hypot(240, 240, 155)) == RULES["brats2023-gli"].penalty_in((9, 9, 9))
    assert RULES["brats2025-met"].penalty_in((3, 4, 12)) == 13.0


def test_an_unknown_rule_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'brats2022' is unknown; use one of brats2023-gli"):
        get_rule("brats2022")
