from __future__ import annotations

from pathlib import Path

import pytest

from bratsml.config import build_config, with_overrides
from bratsml.errors import ConfigError
from bratsml.experiment import (
    PHANTOM_PROFILE,
    Experiment,
    find_experiment_file,
    load_experiment,
    phantom_profile,
)

PROJECT = Path(__file__).parents[2]
FILES = sorted(p for p in (PROJECT / "experiments").glob("*.yaml") if p.stem != PHANTOM_PROFILE)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_experiment_loads_under_its_own_name(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    again = build_config(Experiment, experiment.tree())
    assert again == experiment


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_experiment_shrinks_to_the_phantoms(path: Path) -> None:
    kind = load_experiment(path).model.kind
    small = load_experiment(path, phantom_profile(PROJECT, kind))
    assert max(small.loader.patch) <= 64
    assert small.train.epochs <= 40


def test_as_published_means_classes_on_resized_volumes() -> None:
    experiment = load_experiment(PROJECT / "experiments" / "unet_as_published.yaml")
    assert experiment.output.kind == "classes"
    assert experiment.data.recipe.kind == "resize128"
    assert experiment.model.channels == (16, 32, 64, 128, 256)
    assert (experiment.optim.kind, experiment.optim.lr) == ("adam", 1e-4)


def test_a_model_picks_its_file_and_nothing_means_unet() -> None:
    assert find_experiment_file(PROJECT, model="swinunetr").stem == "swinunetr"
    assert find_experiment_file(PROJECT).stem == "unet"


@pytest.mark.parametrize(
    ("model", "experiment", "message"),
    [
        ("unett", "", "did you mean 'unet'"),
        ("", "experiments/real_gpu.yaml", "did you mean 'real_cpu'"),
        ("unet", "experiments/unet.yaml", "not both"),
        (PHANTOM_PROFILE, "", "is not in experiments/"),
    ],
)
def test_a_name_that_is_none_is_answered_with_the_nearest(
    model: str, experiment: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        find_experiment_file(PROJECT, model=model, experiment=experiment)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loader": {"patch": [100, 100, 100]}}, "multiples of 16"),
        ({"inference": {"window": [100, 96, 96]}}, "multiples of 16"),
        ({"model": {"kind": "swinunetr", "feature_size": 20}}, "multiple of 12"),
        ({"model": {"kind": "swinunetr"}, "loader": {"patch": [48, 48, 48]}}, "multiples of 32"),
        ({"data": {"label_scheme": "brats1999"}}, "brats2021"),
        ({"modell": {}}, "unknown setting 'modell'; did you mean 'model"),
        ({"name": "../x"}, "name"),
        ({"train": {"epochs": 0}}, r"train\.epochs"),
    ],
)
def test_impossible_combinations_are_refused_before_any_work(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_overrides(Experiment(), changes)


def test_where_it_runs_does_not_decide_the_result() -> None:
    one = Experiment()
    other = with_overrides(one, {"launcher": {"parallel": 4}, "loader": {"workers": 7}})
    assert one.what_decides_the_result() == other.what_decides_the_result()
    third = with_overrides(one, {"optim": {"lr": 0.5}})
    assert one.what_decides_the_result() != third.what_decides_the_result()


def test_a_base_that_is_missing_or_circular_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b\n")
    with pytest.raises(ConfigError, match=r"b\.yaml is not there"):
        load_experiment(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("base: a\n")
    with pytest.raises(ConfigError, match="its own base"):
        load_experiment(tmp_path / "a.yaml")
