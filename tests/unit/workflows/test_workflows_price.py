"""What a few training steps say about the whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from bratsml.config import Tree, build_config
from bratsml.data.extra import StoreWithExtra
from bratsml.data.phantom import PhantomConfig, write_phantoms
from bratsml.data.split import Split
from bratsml.experiment import Experiment
from bratsml.workflows import price as prices
from bratsml.workflows.estimate import FOLD_SECONDS, Estimate
from bratsml.workflows.fold import FoldWork
from bratsml.workflows.preprocess import ensure_store
from bratsml.workflows.price import Enough, Price, Probe, measure_price

TINY: dict[str, Tree] = {
    "model": {"kind": "unet", "channels": [4, 8], "strides": [2], "res_units": 0},
    "loader": {"patch": [16, 16, 16], "batch_size": 2, "workers": 0, "augment": []},
    "train": {"epochs": 5, "accumulate": 2, "validate_every": 5},
    "split": {"folds": 2},
    "compute": {"device": "cpu"},
    "launcher": {"parallel": 1},
}


def experiment(**sections: Tree) -> Experiment:
    return build_config(Experiment, {"name": "x", **TINY, **sections})


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(prices.time, "perf_counter", found)
    return found


def test_the_first_update_is_not_timed_and_the_median_counts(clock: Clock) -> None:
    probe = Probe(steps=6)
    probe.on_fit_start(0, 1, 20)
    for step, seconds in ((2, 50.0), (4, 1.0), (6, 9.0)):  # updates of two batches each
        clock.now += seconds
        probe.on_step(step, 0.0)
    clock.now += 2.0
    with pytest.raises(Enough):
        probe.on_step(8, 0.0)
    probe.close()
    assert probe.timed == 6
    assert probe.batch_seconds == pytest.approx(1.0)  # of 0.5, 4.5 and 1.0
    assert probe.host_bytes > 1e7


def test_a_slow_machine_is_not_kept_for_ever(clock: Clock) -> None:
    probe = Probe(steps=20, longest=60)
    probe.on_fit_start(0, 1, 20)
    clock.now += 70
    probe.on_step(1, 0.0)  # nothing is timed yet
    clock.now += 30
    with pytest.raises(Enough):
        probe.on_step(2, 0.0)
    probe.close()
    assert (probe.timed, probe.batch_seconds) == (1, 30)


@pytest.mark.parametrize(("accumulate", "samples"), [(1, 44), (4, 56), (30, 180)])
def test_the_probe_has_an_epoch_long_enough(accumulate: int, samples: int) -> None:
    # one update to warm up, at least 20 batches and one more, all of two patches
    of_steps = prices._of_steps(experiment(train={"accumulate": accumulate}))
    assert of_steps.loader.samples_per_epoch == samples
    assert of_steps.train.profile.active == 0


def test_disk_is_checkpoints_models_and_probabilities() -> None:
    split = Split((), (("a", "b"), ("c",)), ())
    one = Estimate(1.0, 1, disk_bytes=3600, device="cpu")  # 3 x 100 weights x 12 bytes
    found = experiment(train={"keep_checkpoints": 2}, evaluation={"keep_probabilities": True})
    # two folds of 3600 + (1 + 2) x 400 bytes; three cases of half a megabyte
    assert prices._disk_bytes(found, split, one, 100) == 2 * 4800 + 1_500_000
    without = experiment(evaluation={"keep_probabilities": False})
    assert prices._disk_bytes(without, split, one, 100) == 2 * 4000


@pytest.mark.slow
def test_a_price_is_measured_on_real_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # stores are kept where the project is
    folder = tmp_path / "cases"
    write_phantoms(folder, PhantomConfig(cases=6, shape=(32, 32, 32)))
    found = experiment(loader={**TINY["loader"], "samples_per_epoch": 10})
    store = ensure_store(folder, found.data.recipe, label_scheme=None, allow_rejected=False)
    price = measure_price(found, store)
    assert isinstance(price, Price)
    assert price.timed == 20
    assert price.batches == 5
    assert price.num_folds == 2
    assert 0 < price.batch_seconds < 2
    # 5 epochs of 5 batches, and validations beside them
    training = 5 * 5 * price.batch_seconds
    assert training < price.one_fold.fold_seconds - FOLD_SECONDS < training + 60
    assert price.total_seconds == pytest.approx(2 * price.one_fold.fold_seconds)
    assert price.store_bytes == sum(f.stat().st_size for f in store.path.rglob("*") if f.is_file())
    assert price.host_bytes > 5e7


def test_extra_cases_are_priced_and_frozen_layers_are_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stores = []
    for layout in ("brats2021", "brats2023"):
        phantoms = PhantomConfig.model_validate({"cases": 3, "shape": (32,) * 3, "layout": layout})
        write_phantoms(tmp_path / layout, phantoms)
        stores.append(ensure_store(tmp_path / layout))
    found = experiment(transfer={"freeze_but_last": 1}, split={"folds": 2, "test_fraction": 0})
    weights: list[int] = []

    def note(work: FoldWork, model: nn.Module, tracker: object, hooks: list[Probe]) -> None:
        assert set(work.split.training(0)) > set(stores[1].case_ids)
        weights.append(sum(weight.requires_grad for weight in model.parameters()))
        hooks[0].seconds.append(1.0)

    monkeypatch.setattr(prices, "train_network", note)
    monkeypatch.setattr(prices, "time_window", lambda *_: 1.0)
    price = measure_price(found, StoreWithExtra(*stores))
    files = [f for store in stores for f in store.path.rglob("*") if f.is_file()]
    assert price.store_bytes == sum(f.stat().st_size for f in files)
    assert weights == [2]  # kernel and bias of the last convolution
