"""Whose patients the start weights have seen, and when that forbids to start from them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bratsml.data.folds import Split, SplitConfig, make_split
from bratsml.errors import CheckpointError, ConfigError, TrackingError
from bratsml.tracking.runs import RecordedRun
from bratsml.training.checkpoint import save_checkpoint
from bratsml.workflows import start_weights
from bratsml.workflows.start_weights import (
    SEEN_FILE,
    StartWeights,
    find_start_weights,
    require_unseen,
)

IDS = tuple(f"BraTS-GLI-0000{n}-00{visit}" for n in range(6) for visit in (0, 1))
CONFIG = SplitConfig(folds=2, test_fraction=0)
RUN, FOLD_0, FOLD_1 = "a" * 32, "b" * 32, "c" * 32


def store_of(ids: tuple[str, ...] = IDS, name: str = "data") -> Any:
    metas = [
        SimpleNamespace(id=i, patient=i[:-4], cohort="GLI", volume_ml={"WT": n + 1.0, "ET": 1.0})
        for n, i in enumerate(ids)
    ]
    return SimpleNamespace(case_ids=ids, dataset_hash=name, metas=lambda: metas)


STORE = store_of()
SPLIT = make_split(STORE.metas(), CONFIG)


def start(seen: tuple[str, ...], known: bool = True) -> StartWeights:
    return StartWeights("x.pt", "0", "x.pt", "x.pt", seen, known)


def config_of(**changes: Any) -> dict[str, Any]:
    return {
        "experiment": {"split": CONFIG.tree()},
        "dataset_hash": "data",
        "split_hash": SPLIT.hash,
        "fold": 0,
        **changes,
    }


def found(tmp_path: Path, config: dict[str, Any], store: Any = STORE) -> StartWeights:
    path = tmp_path / "w.pt"
    save_checkpoint(path, {"config": config, "model": {"a": torch.zeros(1)}, "ema": None})
    (weights,) = find_start_weights(str(path), [0], store, tmp_path)
    return weights


def test_the_same_fold_of_the_same_data_may_start_it_and_no_other(tmp_path: Path) -> None:
    weights = found(tmp_path, config_of())
    assert weights.seen == SPLIT.training(0)
    assert require_unseen(weights, STORE, SPLIT, 0) is True
    with pytest.raises(ConfigError, match=r"w.pt.*were trained on BraTS-GLI-.*fold 1 is validated"):
        require_unseen(weights, STORE, SPLIT, 1)


def test_another_division_of_the_same_data_is_seen_through(tmp_path: Path) -> None:
    other = make_split(STORE.metas(), SplitConfig(folds=2, test_fraction=0, seed=1))
    assert set(other.folds[0]) != set(SPLIT.folds[0])
    with pytest.raises(ConfigError, match="fold 0 is validated on"):
        require_unseen(found(tmp_path, config_of()), STORE, other, 0)


def test_another_visit_of_a_patient_counts(tmp_path: Path) -> None:
    """And so does a case that only the start's data holds: its id tells the patient."""
    held_out = SPLIT.folds[0][0]
    visit = f"{held_out[:-3]}777"
    assert visit not in IDS
    with pytest.raises(ConfigError, match=f"trained on {held_out[:-4]}, which"):
        require_unseen(start((visit,)), STORE, SPLIT, 0)


def test_the_test_split_must_be_unseen_too() -> None:
    split = Split(test=(IDS[0], IDS[1]), folds=(IDS[2:6], IDS[6:]))
    with pytest.raises(ConfigError, match="which the test split is scored on"):
        require_unseen(start((IDS[0],)), STORE, split, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset_hash": "elsewhere"},
        {"extra_hash": "elsewhere"},
        {"experiment": {"split": CONFIG.tree(), "transfer": {"start": ["d" * 64]}}},
    ],
    ids=["other data", "extra data", "fine-tuned itself"],
)
def test_what_is_not_on_record_is_not_vouched_for(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert require_unseen(found(tmp_path, config_of(**changes)), STORE, SPLIT, 0) is False


def test_data_that_was_somebody_s_extra_data_has_been_seen_whole(tmp_path: Path) -> None:
    weights = found(tmp_path, config_of(dataset_hash="elsewhere", extra_hash="data"))
    assert weights.seen == IDS
    with pytest.raises(ConfigError, match="were trained on"):
        require_unseen(weights, STORE, SPLIT, 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"split_hash": "of a fold file that was changed since"},
        {"experiment": {"split": {**CONFIG.tree(), "file": "gone.json"}}},
    ],
    ids=["another division", "no fold file"],
)
def test_a_division_that_cannot_be_made_again_is_not_vouched_for(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    weights = found(tmp_path, config_of(**changes))
    assert (weights.seen, weights.all_seen_known) == ((), False)


def test_what_is_on_record_of_a_soup_of_fine_tuned_networks_is_enforced(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(run: RecordedRun, name: str, root: Path) -> Any:
        if name == SEEN_FILE:
            raise TrackingError("a soup has none")
        return SPLIT.to_tree()

    monkeypatch.setattr(start_weights, "read_json_artifact", read)
    (weights,) = find_start_weights(FOLD_1, [1], STORE, tmp_path)
    assert require_unseen(weights, STORE, SPLIT, 1) is False
    with pytest.raises(ConfigError, match="fold 0 is validated on"):
        require_unseen(weights, STORE, SPLIT, 0)


def test_a_plain_state_dict_tells_nothing(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "plain.pt")
    (weights,) = find_start_weights(str(tmp_path / "plain.pt"), [1], STORE, tmp_path)
    assert (weights.seen, weights.all_seen_known, weights.source) == ((), False, "plain.pt")
    assert require_unseen(weights, STORE, SPLIT, 1) is False


def test_what_is_neither_file_nor_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"best.pt is neither a file nor the id of a run"):
        find_start_weights("/somewhere/best.pt", [0], STORE, tmp_path)


def test_a_changed_file_is_refused_when_a_run_goes_on(tmp_path: Path) -> None:
    weights = found(tmp_path, config_of())
    assert StartWeights.from_tree(weights.to_tree()) == weights
    weights.require_unchanged()
    Path(weights.path).write_bytes(b"other")
    with pytest.raises(CheckpointError, match="gone or were changed"):
        weights.require_unchanged()


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A cross-validation of two folds, the second fine-tuned from a run that saw one case more."""
    (tmp_path / "best.pt").write_bytes(b"weights")

    def fold(number: int, run_id: str, **params: str) -> RecordedRun:
        all_params = {"fold": str(number), **params}
        return RecordedRun(run_id, "r", "FINISHED", "1", f"fold_{number}", all_params, {})

    children = (
        fold(0, FOLD_0, **{"transfer.start": "[]"}),
        fold(1, FOLD_1, **{"transfer.start": '["d"]'}),
    )
    runs = {
        RUN: RecordedRun(RUN, "cv", "FINISHED", "1", "", {}, {}, children),
        FOLD_0: children[0],
        FOLD_1: children[1],
    }
    artifacts = {
        "split.json": SPLIT.to_tree(),
        SEEN_FILE: {"cases": ["BraTS-SSA-00009-000"], "all": True},
    }
    monkeypatch.setattr(start_weights, "find_run", lambda run_id, root: runs[run_id])
    monkeypatch.setattr(start_weights, "best_checkpoint", lambda run, root: tmp_path / "best.pt")
    monkeypatch.setattr(
        start_weights, "read_json_artifact", lambda run, name, root: artifacts[name]
    )
    return runs


def test_each_fold_starts_from_the_fold_of_its_number(runs: Any, tmp_path: Path) -> None:
    first, second = find_start_weights(RUN, [0, 1], STORE, tmp_path)
    assert (first.source, second.source) == (FOLD_0, FOLD_1)
    assert first.named == second.named == RUN
    assert first.seen == SPLIT.training(0)
    assert set(second.seen) == {*SPLIT.training(1), "BraTS-SSA-00009-000"}
    assert first.all_seen_known
    assert second.all_seen_known


def test_one_run_may_start_several_folds(runs: Any, tmp_path: Path) -> None:
    weights = find_start_weights(FOLD_1, [0, 1], STORE, tmp_path)
    assert [start.source for start in weights] == [FOLD_1, FOLD_1]


def test_a_fold_that_the_run_lacks_is_named(runs: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has 2 folds, none to start fold 2 from"):
        find_start_weights(RUN, [0, 1, 2], STORE, tmp_path)


def test_an_unfinished_run_is_refused(runs: Any, tmp_path: Path) -> None:
    runs["e" * 32] = RecordedRun("e" * 32, "r", "KILLED", "1", "", {}, {})
    with pytest.raises(TrackingError, match="is not finished"):
        find_start_weights("e" * 32, [0], STORE, tmp_path)


def test_zeros_are_held_only_in_kernels_of_the_same_size(tmp_path: Path) -> None:
    small, large = (nn.Sequential(nn.Conv3d(1, 1, size)) for size in (3, 5))
    torch.save(small.state_dict(), tmp_path / "small.pt")
    (weights,) = find_start_weights(str(tmp_path / "small.pt"), [0], STORE, tmp_path)
    assert start_weights.keep_zeros(small, weights) == 0
    with pytest.raises(ConfigError, match=r"has no 0.weight of shape \[1, 1, 5, 5, 5\]"):
        start_weights.keep_zeros(large, weights)
