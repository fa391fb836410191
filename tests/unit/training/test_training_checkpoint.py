from __future__ import annotations

import contextlib
import pickle
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from bratsml.errors import CheckpointError, ResourceError
from bratsml.training.checkpoint import CheckpointFolder, load_checkpoint, save_checkpoint


def state(number: int) -> dict:
    return {"config": {}, "model": {"w": torch.full((100,), float(number))}, "number": number}


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for number in (1, 2):
        folder.save_last(state(number))
    return folder


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def test_the_last_is_loaded_and_the_one_before_is_kept(folder: CheckpointFolder) -> None:
    assert folder.load_last()["number"] == 2
    assert load_checkpoint(folder.previous_path)["number"] == 1


@pytest.mark.parametrize("damage", [flip_one_bit, truncate, Path.unlink])
def test_a_damaged_last_gives_way_to_the_previous(folder: CheckpointFolder, damage) -> None:
    damage(folder.last_path)
    if damage is Path.unlink:
        assert folder.load_last()["number"] == 1
        return
    with pytest.warns(UserWarning, match="damaged.*previous.pt"):
        assert folder.load_last()["number"] == 1


def test_a_damaged_last_does_not_take_the_place_of_the_good_previous(
    folder: CheckpointFolder,
) -> None:
    flip_one_bit(folder.last_path)
    folder.save_last(state(3))
    assert load_checkpoint(folder.previous_path)["number"] == 1
    assert folder.load_last()["number"] == 3


def test_all_damaged_is_said_and_nothing_is_overwritten(folder: CheckpointFolder) -> None:
    flip_one_bit(folder.last_path)
    truncate(folder.previous_path)
    with pytest.raises(CheckpointError, match=r"last\.pt.*previous\.pt"):
        folder.load_last()


def test_an_empty_folder_has_nothing_to_resume(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path / "none").load_last() is None


@pytest.mark.parametrize("write", ["write_text", "write_bytes"])
@pytest.mark.parametrize("nth", range(1, 4))
def test_a_crash_at_any_write_leaves_one_good_checkpoint(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, write: str, nth: int
) -> None:
    import bratsml.training.checkpoint as module

    class Crash(BaseException):
        pass

    calls = 0
    original = getattr(module, write)

    def crashing(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            raise Crash
        original(*arguments)

    monkeypatch.setattr(module, write, crashing)
    with contextlib.suppress(Crash):
        folder.save_last(state(3))
    monkeypatch.undo()
    loaded = folder.load_last()
    assert loaded is not None
    assert loaded["number"] in (2, 3)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "attacked",))

    path = tmp_path / "evil.pt"
    torch.save({"format": 1, "model": Attack()}, path)
    with pytest.raises(CheckpointError, match="could run code"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not (tmp_path / "attacked").exists()


def test_a_full_disk_leaves_the_old_file_and_says_how_much_is_missing(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    with pytest.raises(ResourceError, match=r"needs \d+ MB, 0 MB are free"):
        folder.save_last(state(3))
    assert folder.load_last()["number"] == 2


def test_best_is_a_file_of_its_own(folder: CheckpointFolder) -> None:
    folder.save_best(state(2))
    flip_one_bit(folder.last_path)
    assert load_checkpoint(folder.best_path)["number"] == 2


def test_a_single_file_without_its_folder_is_still_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a" / "x.pt", state(7))
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "x.pt", tmp_path / "b" / "x.pt")
    assert load_checkpoint(tmp_path / "b" / "x.pt")["number"] == 7


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(2)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="not one of ours"):
        load_checkpoint(tmp_path / "x.pt")
