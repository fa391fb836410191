"""Processes that die, and the ones that take over."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bratsml.data.pool import run_each, usable_cores
from bratsml.errors import DataError, ResourceError


def square(number: int) -> int:
    return number * number


def dies_on_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies_once(flag: Path) -> str:
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return flag.name


def refuses(number: int) -> int:
    raise DataError(f"case{number}", "a.nii", "is broken", "mend it")


def test_results_of_any_number_of_workers():
    assert sorted(run_each(square, range(5), 1, str)) == [0, 1, 4, 9, 16]
    assert sorted(run_each(square, range(5), 2, str)) == [0, 1, 4, 9, 16]
    assert list(run_each(square, [], 2, str)) == []


def test_a_task_that_kills_its_worker_is_named():
    done = []
    with pytest.raises(ResourceError, match="process working on case 3 was killed"):
        done.extend(run_each(dies_on_three, range(3, 5), 2, lambda n: f"case {n}"))


def test_a_worker_that_dies_once_is_replaced(tmp_path):
    flags = [tmp_path / name for name in "ab"]
    assert sorted(run_each(dies_once, flags[:1] * 2, 2, str)) == ["a", "a"]


def test_errors_come_back_whole():
    with pytest.raises(DataError) as caught:
        list(run_each(refuses, [1, 2], 2, str))
    assert caught.value.remedy == "mend it"


def test_cores():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
