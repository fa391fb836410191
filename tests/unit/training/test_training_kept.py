"""Several good checkpoints of a training, kept for a soup."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from bratsml.training.checkpoint import CheckpointFolder, State, load_checkpoint
from bratsml.training.loop import Validation
from bratsml.training.optim import OptimConfig

SCORES = [0.2, 0.9, 0.9, math.nan, 0.1, 0.5]


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it."""


def scored(model: nn.Module, epoch: int) -> Validation:
    return Validation(SCORES[epoch], {}, pd.DataFrame())


def kept(folder: Path) -> dict[int, list[float]]:
    """Epoch to weights of what lies in the folder, after a look at names and hashes."""
    files = CheckpointFolder(folder).kept_paths
    beside = sorted(path.name for path in (folder / "kept").glob("*.sha256"))
    assert beside == [f"{path.name}.sha256" for path in files]
    found = {}
    for path in files:
        state = load_checkpoint(path)  # checks the hash
        best = state["best"]
        assert path.name == f"epoch_{best['epoch']:05d}.pt"
        assert best["score"] == SCORES[best["epoch"]]
        found[best["epoch"]] = torch.cat([w.flatten() for w in state["model"].values()]).tolist()
    return found


@pytest.mark.parametrize(
    ("num", "epochs"), [(0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 5]), (9, [0, 1, 2, 4, 5])]
)
def test_the_best_epochs_are_kept(train: Any, tmp_path: Path, num: int, epochs: list[int]) -> None:
    train(validate=scored, config={"epochs": 6, "keep_checkpoints": num})
    assert sorted(kept(tmp_path / "run")) == epochs


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"config": {"ema_decay": None}},
        {"optim": OptimConfig(kind="adamw_schedule_free", lr=0.01), "config": {"ema_decay": None}},
    ],
    ids=["ema", "plain", "schedule-free"],
)
def test_what_is_kept_is_what_validation_scored(
    train: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    seen: dict[int, dict[str, torch.Tensor]] = {}

    def remember(model: nn.Module, epoch: int) -> Validation:
        seen[epoch] = {name: value.clone() for name, value in model.state_dict().items()}
        return scored(model, epoch)

    settings = {"epochs": 6, "keep_checkpoints": 3} | changes.get("config", {})
    train(validate=remember, **{**changes, "config": settings})
    assert sorted(kept(tmp_path / "run")) == [1, 2, 5]
    for path in CheckpointFolder(tmp_path / "run").kept_paths:
        state = load_checkpoint(path)
        assert state["ema"] is None
        assert "optimizer" not in state
        weights = seen[state["best"]["epoch"]]
        assert state["model"].keys() == weights.keys()
        for name, value in state["model"].items():
            assert torch.equal(value, weights[name])


@pytest.mark.parametrize("killed_in", ["save_kept", "save_last", "drop_kept"])
@pytest.mark.parametrize("epoch", [1, 2, 5])
def test_killed_anywhere_ends_with_the_same_files(
    train: Any, tmp_path: Path, killed_in: str, epoch: int
) -> None:
    settings = {"validate": scored, "config": {"epochs": 6, "keep_checkpoints": 2}}
    train("whole", **settings)
    if epoch == 5 and killed_in == "save_kept":
        return  # that epoch is not among the best two
    dead: list[bool] = []

    class Fragile(CheckpointFolder):
        def save_kept(self, number: int, state: State) -> None:
            super().save_kept(number, state)
            self.end("save_kept", number)

        def save_last(self, state: State) -> None:
            super().save_last(state)
            self.end("save_last", state["position"]["epoch"] - 1)

        def drop_kept(self, staying: Any) -> None:
            staying = list(staying)
            super().drop_kept(staying)
            self.end("drop_kept", load_checkpoint(self.last_path)["position"]["epoch"] - 1)

        def end(self, place: str, number: int) -> None:
            if (place, number) == (killed_in, epoch):
                dead.append(True)
                raise Killed

    with pytest.raises(Killed):
        train("run", checkpoints=Fragile(tmp_path / "run"), **settings)
    assert dead
    train("run", **settings)
    assert kept(tmp_path / "run") == kept(tmp_path / "whole")


def test_going_back_to_the_previous_checkpoint_keeps_the_same_files(
    train: Any, tmp_path: Path
) -> None:
    settings = {"validate": scored, "config": {"epochs": 6, "keep_checkpoints": 2}}
    train("whole", **settings)

    class Ends(CheckpointFolder):
        def drop_kept(self, staying: Any) -> None:
            super().drop_kept(staying)
            if load_checkpoint(self.last_path)["position"]["epoch"] == 3:
                raise Killed  # epoch 2 has taken the place of epoch 0, which the previous names

    with pytest.raises(Killed):
        train("run", checkpoints=Ends(tmp_path / "run"), **settings)
    last = tmp_path / "run" / "last.pt"
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.warns(UserWarning, match=r"previous\.pt"):
        train("run", **settings)
    assert kept(tmp_path / "run") == kept(tmp_path / "whole")


def test_a_training_from_before_there_was_such_a_list_goes_on(train: Any, tmp_path: Path) -> None:
    class Older(CheckpointFolder):
        def save_last(self, state: State) -> None:
            super().save_last({name: value for name, value in state.items() if name != "kept"})
            if state["position"]["epoch"] == 2:
                raise Killed

    settings = {"validate": scored, "config": {"epochs": 6}}
    with pytest.raises(Killed):
        train(checkpoints=Older(tmp_path / "run"), **settings)
    result, _, _ = train(**settings)
    assert result.best_epoch == 1
