"""The experiment files answer to published runs: their sizes and settings are those published."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bratsml.experiment import Experiment, load_experiment
from bratsml.labels import get_scheme
from bratsml.models.registry import count_parameters

FOLDER = Path(__file__).parents[2] / "experiments"


def load(name: str) -> Experiment:
    return load_experiment(FOLDER / f"{name}.yaml")


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("plain_unet", 1.3),
        ("plain_unet_as_published", 1.3),
        ("plain_unet_7fold", 5.65),
        ("plain_unet_7fold_as_published", 5.65),
        ("unet_as_published", 4.811129),
        ("mednext_africa", 5.55),
        ("mednext_b", 10.53),
        ("mednext_m", 17.55),
    ],
)
def test_has_the_published_number_of_weights(name: str, millions: float) -> None:
    experiment = load(name)
    # the published counts are of the network without the heads of deep supervision
    changes = {"deep_supervision": False} if hasattr(experiment.model, "deep_supervision") else {}
    config = experiment.model.model_copy(update=changes)
    output = experiment.output.build(get_scheme("brats2021"))
    with torch.device("meta"):
        network = config.build(len(experiment.data.modalities), output.num_channels)
    digits = len(str(millions).partition(".")[2])
    assert round(count_parameters(network) / 1e6, digits) == pytest.approx(millions, abs=0.011)


def test_of_each_published_run_there_is_what_it_should_have_been() -> None:
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    published = {name for name in names if name.endswith("_as_published")}
    assert len(published) >= 10
    assert {name.removesuffix("_as_published") for name in published} <= names


def test_whole_tumour_from_one_modality() -> None:
    experiment = load("t2f_whole_tumour_as_published")
    assert experiment.data.modalities == ("t2f",)
    assert experiment.output.regions == ("WT",)
    assert experiment.data.recipe.kind == "resize128"
    assert experiment.loss.kind == "sum"
    tversky = experiment.loss.terms[0].loss
    assert (tversky.kind, tversky.alpha, tversky.beta) == ("tversky", 0.4, 0.6)
    assert [term.loss.kind for term in experiment.loss.terms[1:]] == ["dice", "cross_entropy"]
    assert load("t2f_whole_tumour").data.recipe.kind == "native"


def test_mednext_for_africa_as_it_was_and_as_it_should_be() -> None:
    ours, theirs = load("mednext_africa"), load("mednext_africa_as_published")
    for experiment in (ours, theirs):
        assert experiment.loader.patch == (128, 160, 112)
        assert (experiment.optim.kind, experiment.optim.lr) == ("adamw_schedule_free", 0.0027)
        assert experiment.optim.weight_decay == 0
        assert (experiment.split.folds, experiment.inference.flips) == (5, (0, 1, 2))
    assert ours.loader.case_sampling.kind == "balanced_et"
    assert ours.postprocess == ()
    small = theirs.postprocess[-1]
    assert (small.kind, small.region, small.voxels) == ("drop_if_small", "ET", 200)


def test_dynunet_augments_like_nnunet() -> None:
    turn, flip, inside = load("dynunet_5fold").loader.augment
    assert (turn.probability, turn.scale_probability) == (0.2, 0.2)
    assert (turn.degrees, turn.factor) == (30, (0.7, 1.4))
    assert (flip.kind, flip.probability, flip.axes) == ("flip", 0.5, (0, 1, 2))
    assert [(step.kind, step.probability) for step in inside.steps] == [
        ("gaussian_noise", 0.1),
        ("gaussian_blur", 0.2),
        ("scale_intensity", 0.15),
        ("contrast", 0.15),
        ("low_resolution", 0.25),
        ("gamma", 0.1),
        ("gamma", 0.3),
    ]
    inverted, plain = inside.steps[-2:]
    assert (inverted.inverted, plain.inverted) == (True, False)
    assert inverted.keep_mean_and_std
    assert plain.keep_mean_and_std
