"""What is taken from trained weights, what is frozen, and that training respects it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tiny_training import RecordingTracker, TinyNet
from torch import Tensor, nn
from torch.nn import functional

from bratsml.errors import CheckpointError, ConfigError
from bratsml.models.mednext import MedNeXtConfig
from bratsml.training.checkpoint import CheckpointFolder, save_checkpoint
from bratsml.training.optim import OptimConfig
from bratsml.training.schedule import ScheduleConfig
from bratsml.training.transfer import (
    TransferConfig,
    freeze,
    layers_of,
    read_weights,
    require_frozen_loaded,
    start_from,
)

PLAIN = TransferConfig()


class Net(nn.Module):
    """Six layers; the norm layers keep running statistics, the first has no weights of its own."""

    def __init__(self, kernel: int = 3, classes: int = 2) -> None:
        super().__init__()
        pad = kernel // 2
        self.stem = nn.Conv3d(1, 4, kernel, padding=pad)
        self.bare = nn.BatchNorm3d(4, affine=False)
        self.deep = nn.ModuleList([nn.Conv3d(4, 4, kernel, padding=pad), nn.BatchNorm3d(4)])
        self.up = nn.ConvTranspose3d(4, 4, 2, stride=2)
        self.norm = nn.BatchNorm3d(4)
        self.head = nn.Conv3d(4, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        value = self.deep[1](self.deep[0](self.bare(self.stem(image))))
        return self.head(self.norm(self.up(value)))


def net(seed: int, **settings: int) -> Net:
    torch.manual_seed(seed)
    return Net(**settings)


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """Keys whose values are bit for bit what they were."""
    return {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}


def test_layers_are_modules_with_weights_in_the_order_of_the_state_dict() -> None:
    names = [name for name, _ in layers_of(net(0))]
    assert names == ["stem", "deep.0", "deep.1", "up", "norm", "head"]


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "model."])
def test_wrappers_prefixes_are_taken_off(prefix: str) -> None:
    trained, model = net(1), net(2)
    weights = {prefix + name: value for name, value in trained.state_dict().items()}
    report = start_from(model, weights, PLAIN, "x.pt")
    assert same(model, trained.state_dict()) == set(trained.state_dict())
    assert (report.share_of_keys, report.share_of_values) == (1.0, 1.0)
    assert set(report.rows["outcome"]) == {"loaded"}


def test_a_prefix_that_is_the_network_s_own_stays() -> None:
    model = nn.Sequential()
    model.add_module("model", net(0))
    weights = {f"module.{name}": value + 1 for name, value in copy_of(model).items()}
    start_from(model, weights, PLAIN, "x.pt")
    assert torch.equal(model.state_dict()["model.stem.bias"], weights["module.model.stem.bias"])


def test_under_95_percent_is_refused_with_both_shares_and_the_first_of_each_kind() -> None:
    trained, model = net(1, classes=3), net(2)
    weights = dict(trained.state_dict())
    weights["other.weight"] = weights.pop("deep.0.weight")
    before = copy_of(model)
    wanted = 6 * 2 + 3 * 3  # weights and biases; mean, variance and count of three norm layers
    taken = wanted - 3
    with pytest.raises(CheckpointError) as error:
        start_from(model, weights, PLAIN, "x.pt")
    message = str(error.value)
    assert f"x.pt fits {taken} of {wanted} keys of this network ({taken / wanted:.1%}" in message
    assert "1 missing, first deep.0.weight [4, 4, 3, 3, 3] in the network" in message
    assert "2 shape differs, first head.weight [2, 4, 1, 1, 1] in the network and [3, 4" in message
    assert "1 unexpected, first other.weight [4, 4, 3, 3, 3] in the file" in message
    assert same(model, before) == set(before)


def test_the_share_counts_values_too() -> None:
    """One key of 24, but two thirds of all numbers."""
    trained, model = net(1), net(2)
    model.add_module("large", nn.Linear(40, 40, bias=False))
    for name in ("a", "b", "c"):  # small ones, so that 95 % of the keys match
        for owner in (trained, model):
            owner.add_module(name, nn.BatchNorm3d(1))
    with pytest.raises(CheckpointError, match=r"9\d\.\d% of the keys, [3-4]\d\.\d% of the values"):
        start_from(model, trained.state_dict(), PLAIN, "x.pt")


def test_what_is_reset_keeps_the_fresh_weights_and_does_not_count_as_missing() -> None:
    trained, model = net(1, classes=5), net(2)
    before = copy_of(model)
    report = start_from(model, trained.state_dict(), TransferConfig(reset=("head",)), "x.pt")
    assert same(model, before) >= {"head.weight", "head.bias"}
    assert report.share_of_keys == 1
    assert report.count("reset") == 2
    rest = set(before) - {"head.weight", "head.bias"}
    assert all(torch.equal(model.state_dict()[name], trained.state_dict()[name]) for name in rest)


def test_reset_last_takes_only_the_convolutions_among_the_last_layers() -> None:
    trained, model = net(1), net(2)
    before = copy_of(model)
    report = start_from(model, trained.state_dict(), TransferConfig(reset_last=3), "x.pt")
    fresh = set(report.rows["key"][report.rows["outcome"] == "reset"])
    assert fresh == {"up.weight", "up.bias", "head.weight", "head.bias"}  # the norm is no conv
    assert same(model, before) >= fresh


def test_a_pattern_that_fits_no_convolution_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"transfer.reset: norm\* fits no convolution"):
        start_from(net(0), net(1).state_dict(), TransferConfig(reset=("norm*",)), "x.pt")


def test_smaller_kernels_are_enlarged_by_trilinear_interpolation() -> None:
    trained, model = net(1), net(2, kernel=5)
    report = start_from(model, trained.state_dict(), PLAIN, "x.pt")
    wanted = functional.interpolate(trained.stem.weight, (5, 5, 5), mode="trilinear")
    assert torch.equal(model.stem.weight, wanted)
    assert report.count("kernel enlarged") == 2
    assert torch.equal(model.head.weight, trained.head.weight)
    with pytest.raises(CheckpointError, match=r"2 shape differs, first stem.weight"):
        start_from(net(1), net(2, kernel=5).state_dict(), PLAIN, "x.pt")  # never made smaller


def test_mednext_5_starts_from_mednext_3() -> None:
    small = MedNeXtConfig(width=1).build(4, 3)
    large = MedNeXtConfig(width=1, kernel=5).build(4, 3)
    report = start_from(large, small.state_dict(), PLAIN, "x.pt")
    assert report.count("kernel enlarged") > 20
    assert report.share_of_keys == 1


def test_weights_that_are_not_finite_are_refused() -> None:
    weights = copy_of(net(1))
    weights["up.bias"][0] = float("nan")
    with pytest.raises(CheckpointError, match=r"up.bias holds NaN"):
        start_from(net(0), weights, PLAIN, "x.pt")


def test_frozen_layers_keep_weights_and_running_statistics() -> None:
    model = net(0)
    freeze(model, TransferConfig(freeze_but_last=3))
    before = copy_of(model)
    optimizer = OptimConfig(lr=0.1, weight_decay=0.5).build(model)
    for _ in range(2):
        model.train()
        model(torch.rand(2, 1, 4, 4, 4)).square().mean().backward()
        optimizer.step()
    changed = set(before) - same(model, before)
    assert changed == {
        f"{layer}.{key}" for layer in ("up", "norm", "head") for key in ("weight", "bias")
    } | {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert held == {id(w) for m in (model.up, model.norm, model.head) for w in m.parameters()}


def test_freezing_more_than_there_is_or_what_starts_afresh_is_refused() -> None:
    with pytest.raises(ConfigError, match="is 7, but this network has 6 layers"):
        freeze(net(0), TransferConfig(freeze_but_last=7))
    with pytest.raises(ConfigError, match="up would start from fresh weights and stay frozen"):
        freeze(net(0), TransferConfig(freeze_but_last=2, reset_last=3))
    freeze(net(0), TransferConfig(freeze_but_last=6))


def test_a_frozen_weight_that_was_not_loaded_is_refused() -> None:
    model = net(0)
    for number in range(10):
        model.add_module(f"more{number}", nn.BatchNorm3d(1))
    weights = copy_of(model)
    del weights["stem.bias"]
    report = start_from(model, weights, PLAIN, "x.pt")
    require_frozen_loaded(model, report)  # trained, so it may start at random
    freeze(model, TransferConfig(freeze_but_last=11))
    with pytest.raises(ConfigError, match=r"stem.bias is frozen but not in the start weights"):
        require_frozen_loaded(model, report)


def test_weights_are_read_from_ours_and_from_others(tmp_path: Path) -> None:
    weights = copy_of(net(1))
    averaged = {name: value + 1 for name, value in weights.items()}
    save_checkpoint(tmp_path / "ours" / "a.pt", {"model": weights, "ema": None})
    save_checkpoint(tmp_path / "ours" / "b.pt", {"model": weights, "ema": averaged})
    torch.save({"epoch": 3, "state_dict": weights}, tmp_path / "monai.pt")
    torch.save(weights, tmp_path / "plain.pt")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    for name in ("ours/a.pt", "monai.pt", "plain.pt"):
        assert torch.equal(read_weights(tmp_path / name)["up.bias"], weights["up.bias"])
    read = read_weights(tmp_path / "ours" / "b.pt")
    assert torch.equal(read["up.bias"], averaged["up.bias"])
    with pytest.raises(CheckpointError, match=r"empty.pt holds no weights"):
        read_weights(tmp_path / "empty.pt")


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("written_by_a_checkpoint",)


def test_a_file_that_could_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious()}, "bad.pt")
    with pytest.raises(CheckpointError, match="could run code"):
        read_weights(Path("bad.pt"))
    assert not Path("written_by_a_checkpoint").exists()


FROZEN = {"body.0.weight", "body.0.bias"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "optim": OptimConfig(kind="adamw_schedule_free", lr=0.01),
            "schedule": ScheduleConfig(kind="constant"),
            "config": {"ema_decay": None},
        },
    ],
    ids=["average", "schedule-free"],
)
def test_training_and_resuming_leave_what_is_frozen_bit_for_bit(
    train, tmp_path: Path, changes: dict
) -> None:
    """A training cut in two equals a whole one, and never sees the start weights again."""
    torch.manual_seed(7)
    start = copy_of(TinyNet())
    some = TransferConfig(freeze_but_last=2)

    def begun(fresh: bool) -> nn.Module:
        torch.manual_seed(0)
        model = TinyNet()
        if fresh:
            start_from(model, start, some, "x.pt")
        freeze(model, some)
        return model

    options = {"lr_factors": ({"match": "body.3.*", "factor": 0.5},)}
    optim = changes.get("optim", OptimConfig(lr=0.01))
    changes = {**changes, "optim": OptimConfig(**optim.tree() | options)}
    train("whole", model=begun(True), **dict(changes))
    config = {**changes.pop("config", {})}
    stopped = {"config": {**config, "time_limit_hours": 1e-9}}  # ends after its first epoch
    result, _, _ = train("cut", model=begun(True), **stopped, **changes)
    assert result.epochs_done == 1
    # without the start weights: what goes on is the checkpoint
    train("cut", model=begun(False), tracker=RecordingTracker(), config=config, **changes)
    ends = [CheckpointFolder(tmp_path / name).load_last() for name in ("whole", "cut")]
    assert all(end is not None and end["position"]["epoch"] == 4 for end in ends)
    for kind in ("model", "ema"):
        first, second = ends[0][kind], ends[1][kind]  # type: ignore[index]
        assert {name for name in first if torch.equal(first[name], second[name])} == set(first)
        assert {name for name in first if torch.equal(first[name], start[name])} == FROZEN
