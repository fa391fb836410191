from __future__ import annotations

import pytest
from mlflow.utils.validation import _validate_metric_name

from bratsml.errors import ConfigError
from bratsml.tracking.names import check_param_names, metric_name, param_text, tag_text


@pytest.mark.parametrize("name", ["val/dice/ET", "train/loss", "system/gpu_0 power", "a.b-c:d"])
def test_good_metric_names_stay(name: str) -> None:
    assert metric_name(name) == name


@pytest.mark.parametrize(
    "name", ["dice%", "a//b", "/a", "a/", "../a", "a/../../b", ".", "", "größe", "x" * 300, "a=b,c"]
)
def test_bad_metric_names_become_ones_mlflow_takes(name: str) -> None:
    clean = metric_name(name)
    _validate_metric_name(clean)
    assert 0 < len(clean) <= 250


@pytest.mark.parametrize("name", ["", "a,b", "../x", "x" * 251, "größe"])
def test_bad_setting_names_are_refused_early(name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be recorded"):
        check_param_names({"optim.lr": 1, name: 2})


def test_param_text_is_json_for_lists_and_plain_for_the_rest() -> None:
    assert param_text((96, 96)) == "[96, 96]"
    assert param_text({"kind": "unet"}) == '{"kind": "unet"}'
    assert param_text(0.1) == "0.1"
    assert param_text(None) == "None"


def test_tags_are_cut_where_mlflow_would_refuse_them() -> None:
    assert len(tag_text("x" * 9000)) == 8000
    assert tag_text("short") == "short"
