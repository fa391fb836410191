"""What the ledger notes of tensors that come and go; sizes counted by hand."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bratsml.tuning.memory_ledger import Ledger

KB = 1000


def exact(num_bytes: int) -> int:
    return num_bytes


def no_scratch(*_: object) -> int:
    return 0


def bytes_of(count: int) -> torch.Tensor:
    return torch.empty(count, dtype=torch.uint8)


def test_the_peak_is_what_is_held_at_once() -> None:
    with FakeTensorMode(), Ledger(exact, no_scratch) as ledger:
        first = bytes_of(5 * KB)
        second = bytes_of(3 * KB)
        del first
        third = bytes_of(4 * KB)
        assert ledger.held == 7 * KB
    del second, third
    assert ledger.held == 0
    assert ledger.peak().total == 8 * KB


def test_views_and_changes_in_place_cost_nothing() -> None:
    with FakeTensorMode(), Ledger(exact, no_scratch) as ledger:
        whole = bytes_of(4 * KB)
        part = whole[:KB].view(2, -1)
        part.add_(1)
        assert ledger.held == 4 * KB


def test_a_view_keeps_its_storage() -> None:
    with FakeTensorMode(), Ledger(exact, no_scratch) as ledger:
        whole = bytes_of(4 * KB)
        part = whole[:1]
        del whole
        assert ledger.held == 4 * KB
        del part
        assert ledger.held == 0


def test_the_peak_is_told_by_category_even_when_that_is_known_later() -> None:
    with FakeTensorMode(), Ledger(exact, no_scratch) as ledger:
        weight = bytes_of(2 * KB)
        ledger.note([weight], "weights")
        kept = bytes_of(5 * KB)
        passing = bytes_of(KB)
        del passing
        ledger.note_rest("activations")
    assert kept.nbytes == 5 * KB
    parts = ledger.peak().by_category
    assert parts["weights"] == 2 * KB
    assert parts["activations"] == 5 * KB
    assert parts["temporary"] == KB


def test_the_peak_after_a_moment_leaves_out_what_came_before() -> None:
    with FakeTensorMode(), Ledger(exact, no_scratch) as ledger:
        large = bytes_of(9 * KB)
        del large
        start = ledger.now
        small = bytes_of(2 * KB)
    assert ledger.peak(start).total == small.nbytes == 2 * KB
    assert ledger.peak().total == 9 * KB


def test_scratch_is_held_on_top_of_the_result_and_then_gone() -> None:
    def scratch(func: object, args: object, result: torch.Tensor) -> int:
        return 10 * KB if func is torch.ops.aten.mul.Tensor else 0

    with FakeTensorMode(), Ledger(exact, scratch) as ledger:
        made = bytes_of(KB)
        doubled = made * made
        assert ledger.held == 2 * KB
    assert doubled.nbytes == KB
    assert ledger.peak().total == 12 * KB


def test_numbers_are_read_from_tensors_without_values() -> None:
    with FakeTensorMode(), Ledger(exact, no_scratch):
        assert torch.zeros(()).item() == 1.0
        assert torch.zeros((), dtype=torch.bool).item() is True
        assert torch.stack((torch.zeros(()), torch.zeros(()))).tolist() == [1.0, 1.0]


def test_the_allocator_of_a_gpu_rounds_up() -> None:
    def in_blocks(num_bytes: int) -> int:
        return -(-num_bytes // 512) * 512

    with FakeTensorMode(), Ledger(in_blocks, no_scratch) as ledger:
        made = bytes_of(513)
    assert made.nbytes == 513
    assert ledger.peak().total == 1024
