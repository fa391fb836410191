"""``auto``: measured once, remembered, never a backend that fails or deviates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from bratsml.models.attention import backends, select
from bratsml.models.attention.measure import Workload, measure
from bratsml.models.attention.windows import Windows

WINDOWS = Windows((2, 2), (2, 2), (0, 0), (1, 1))
SHIFTED = Windows((2, 2), (2, 2), (1, 1), (3, 3))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kept" / "attention.json"
    monkeypatch.setenv(select.CACHE_VARIABLE, str(path))
    monkeypatch.setattr(select, "_chosen", {})
    return path


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line per measurement."""
    lines: list[str] = []
    real = select.measure_all

    def count(workload: Workload, candidates: list[str]) -> dict[str, Any]:
        lines.append(str(workload))
        return real(workload, candidates)

    monkeypatch.setattr(select, "measure_all", count)
    return lines


def call(windows: Windows = WINDOWS, batch: int = 2, learns: bool = True) -> str:
    qkv = torch.zeros(batch, 4, 3, 1, 4, requires_grad=learns)
    table = torch.zeros(9, 1, requires_grad=learns)
    return select.choose(qkv, table, windows, 0.0)


def test_measured_once_and_remembered_beyond_the_process(
    cache: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = call()
    assert chosen in ("sdpa", "reference")
    assert call() == chosen
    monkeypatch.setattr(select, "_chosen", {})  # as in a new process
    assert call() == chosen
    assert len(counted) == 1
    (kept,) = json.loads(cache.read_text())["choices"].values()
    assert kept["chosen"] == chosen
    assert set(kept["milliseconds"]) == {"sdpa", "reference"}


def test_each_shape_and_mode_has_its_own(cache: Path, counted: list[str]) -> None:
    call()
    call(learns=False)
    call(SHIFTED, batch=18)
    assert counted == [
        "2 windows of 2x2 (table for 2x2), 1 heads of 4, float32, training",
        "2 windows of 2x2 (table for 2x2), 1 heads of 4, float32, inference",
        "9 windows of 2x2 shifted (table for 2x2), 1 heads of 4, float32, training",
    ]


def test_what_another_process_has_chosen_stands(cache: Path, counted: list[str]) -> None:
    call()
    content = json.loads(cache.read_text())
    for kept in content["choices"].values():
        kept["chosen"] = "reference" if kept["chosen"] == "sdpa" else "sdpa"
        other = kept["chosen"]
    cache.write_text(json.dumps(content))
    select._chosen.clear()
    assert call() == other
    assert len(counted) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 0}', '{"format": 1}'])
def test_a_damaged_file_is_replaced(cache: Path, counted: list[str], content: str) -> None:
    cache.parent.mkdir()
    cache.write_text(content)
    call()
    assert len(counted) == 1
    assert json.loads(cache.read_text())["format"] == select.FORMAT


def test_where_nothing_can_be_kept_a_fixed_rule_decides(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(select.CACHE_VARIABLE, str(tmp_path / "file" / "attention.json"))
    monkeypatch.setattr(select, "_chosen", {})
    assert call() == "reference"
    assert counted == []


def test_random_numbers_and_hooks_of_the_caller_see_nothing(cache: Path) -> None:
    """So that a first run and a resumed one, which does not measure, draw the same."""
    before = torch.get_rng_state()
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        call()
    assert torch.equal(torch.get_rng_state(), before)
    assert saved == []


def test_measures_within_inference_mode_and_autocast(cache: Path) -> None:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert call(learns=False) in ("sdpa", "reference")


def test_a_trace_measures_nothing(cache: Path) -> None:
    with FakeTensorMode():
        assert call() == "reference"
    assert not cache.exists()


def wrong(qkv: Tensor, table: Tensor, windows: Windows, dropout: float) -> Tensor:
    return backends._ATTEND["reference"](qkv, table * 1.01, windows, dropout)


def broken(qkv: Tensor, table: Tensor, windows: Windows, dropout: float) -> Tensor:
    raise torch.OutOfMemoryError("no memory\nand much more")


@pytest.mark.parametrize(
    ("attend", "reason"), [(wrong, "error"), (broken, "OutOfMemoryError: no memory")]
)
def test_a_backend_that_deviates_or_fails_is_never_chosen(
    attend: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends.attend_by.cache_clear()
    monkeypatch.setitem(backends._ATTEND, "sdpa", attend)
    qkv = torch.zeros(2, 4, 3, 1, 4)
    workload = Workload.like(qkv, WINDOWS, training=True, dropout=0.0)
    found = select.measure_all(workload, ["sdpa", "reference"])
    backends.attend_by.cache_clear()
    assert found["chosen"] == "reference"
    assert found["left_out"]["sdpa"].startswith(reason)


def test_large_calls_are_measured_small() -> None:
    """2**20 scores on a CPU: 8 windows of 343 tokens and 1 head; 4 along a grid of 10 x 10 x 10."""
    windows = Windows((7, 7, 7), (7, 7, 7), (3, 3, 3), (10, 10, 10))
    qkv = torch.empty(1000, 343, 3, 1, 8)
    shifted = Workload.like(qkv, windows, training=True, dropout=0.0)
    assert shifted.windows.grid == (2, 2, 2)
    assert shifted.batch == 8
    plain = Windows.unshifted((343,), (7, 7, 7))
    assert Workload.like(qkv, plain, training=True, dropout=0.0).batch == 8


def test_dropout_is_measured_without_disturbing_the_check() -> None:
    qkv = torch.zeros(2, 4, 3, 1, 4)
    workload = Workload.like(qkv, WINDOWS, training=True, dropout=0.5)
    found = measure(workload, ["sdpa", "reference"])
    assert [result.reason for result in found.values()] == ["", ""]


def test_deterministic_runs_do_not_take_what_may_vary() -> None:
    qkv = torch.zeros(2, 4, 3, 1, 4)
    workload = Workload.like(qkv, WINDOWS, training=True, dropout=0.0)
    torch.use_deterministic_algorithms(True)
    try:
        assert select._candidates(workload) == ["reference"]
    finally:
        torch.use_deterministic_algorithms(False)
