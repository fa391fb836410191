"""Worker processes that die, hang, fail or run out of memory, and what is said about it."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils.data._utils import signal_handling

from bratsml.data.workers import Key, WorkerLostError, WorkerPool
from bratsml.errors import DataError, ResourceError


@dataclass
class Result:
    value: torch.Tensor
    shortage: str = ""

    def share_memory(self) -> None:
        if self.shortage:
            raise RuntimeError(self.shortage)
        self.value.share_memory_()


@dataclass
class Task:
    """Batch ``n`` holds cases ``a{n}`` and ``b{n}``; faults strike at the second item."""

    faults: dict[int, str] = field(default_factory=dict)

    def __call__(self, key: Key, report: Callable[[int], None]) -> Result:
        for item in (0, 1):
            report(item)
            if item == 1:
                self.meet(self.faults.get(key[1], ""))
        shortage = (
            "unable to allocate shared memory(shm)" if self.faults.get(key[1]) == "shm" else ""
        )
        return Result(torch.tensor(key), shortage)

    def meet(self, fault: str) -> None:
        if fault == "hang":
            time.sleep(60)
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "bus":
            os.kill(os.getpid(), signal.SIGBUS)
        if fault == "exit":
            os._exit(3)
        if fault == "data":
            raise DataError("b1", "image.npy", "is damaged", "preprocess again")
        if fault == "memory":
            raise MemoryError
        if fault == "bug":
            raise KeyError("a bug")

    def describe(self, key: Key, item: int | None) -> str:
        names = [f"a{key[1]}", f"b{key[1]}"]
        return " or ".join(names) if item is None else names[item]


KEYS = [(5, n) for n in range(4)]


@pytest.fixture
def pool_of() -> Iterator[Callable[..., WorkerPool[Result]]]:
    pools = []

    def make(workers: int = 2, timeout_s: float = 60.0, **faults: int) -> WorkerPool[Result]:
        task = Task({number: fault for fault, number in faults.items()})
        pools.append(WorkerPool(task, workers, prefetch=2, timeout_s=timeout_s, pin=False))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def values(pool: WorkerPool[Result], keys: list[Key]) -> list[list[int]]:
    return [result.value.tolist() for result in pool.run(keys)]


class TestResults:
    def test_come_in_the_order_of_their_keys_epoch_after_epoch(self, pool_of: Any) -> None:
        pool = pool_of()
        assert values(pool, KEYS) == [list(key) for key in KEYS]
        assert values(pool, [(6, 3), (6, 1)]) == [[6, 3], [6, 1]]

    def test_are_right_after_a_run_that_was_broken_off(self, pool_of: Any) -> None:
        pool = pool_of()
        run = pool.run(KEYS)
        next(run)
        run.close()
        assert values(pool, KEYS[2:]) == [[5, 2], [5, 3]]

    def test_draw_nothing_from_the_model_s_random_numbers(self, pool_of: Any) -> None:
        before = torch.get_rng_state()
        values(pool_of(), KEYS)
        assert torch.equal(torch.get_rng_state(), before)

    def test_leave_the_handler_of_ended_children_as_it_was(
        self, pool_of: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # PyTorch sets its handler once per process; let it believe that it has not yet
        monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
        before = signal.getsignal(signal.SIGCHLD)
        values(pool_of(), KEYS)
        assert signal_handling._SIGCHLD_handler_set
        assert signal.getsignal(signal.SIGCHLD) is before


class TestLostWorkers:
    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("kill", "was killed (most likely the machine ran out of memory)"),
            ("bus", "lost its memory (shared memory in /dev/shm is full"),
            ("exit", "ended with exit code 3"),
            ("memory", "found no memory"),
            ("shm", "found no shared memory (/dev/shm is full)"),
        ],
    )
    def test_tell_the_reason_and_the_case(self, pool_of: Any, fault: str, reason: str) -> None:
        with pytest.raises(WorkerLostError) as caught:
            values(pool_of(**{fault: 1}), KEYS)
        assert reason in str(caught.value)
        assert caught.value.cases == "b1"

    def test_can_be_replaced(self, pool_of: Any) -> None:
        pool = pool_of(kill=3)
        with pytest.raises(WorkerLostError):
            values(pool, KEYS)
        assert values(pool, KEYS[:3]) == [[5, 0], [5, 1], [5, 2]]

    def test_carry_their_words_through_pickle(self) -> None:
        error = pickle.loads(pickle.dumps(WorkerLostError("was killed", "a0")))
        assert str(error) == "a data worker was killed while reading a0"


class TestOtherFailures:
    def test_a_hanging_worker_is_named_and_ended(self, pool_of: Any) -> None:
        pool = pool_of(timeout_s=0.5, hang=1)
        start = time.monotonic()
        with pytest.raises(ResourceError, match=r"^b1 could not be read within 0\.5 s"):
            values(pool, KEYS)
        assert time.monotonic() - start < 5

    def test_a_data_error_arrives_whole(self, pool_of: Any) -> None:
        with pytest.raises(DataError) as caught:
            values(pool_of(data=1), KEYS)
        assert (caught.value.case, caught.value.file) == ("b1", "image.npy")

    def test_a_bug_keeps_its_traceback(self, pool_of: Any) -> None:
        with pytest.raises(KeyError, match="a bug"):
            values(pool_of(bug=1), KEYS)
