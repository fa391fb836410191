"""Which tensors a device holds, from operation to operation.

:class:`Ledger` watches every operation (a ``TorchDispatchMode``), notes each new storage and, by a
weak reference, the moment it is freed. Views and in-place operations share a storage and cost
nothing. It keeps a list of events rather than a running maximum: what a storage was for is often
known only later (a gradient is a temporary until a weight takes it), and the list is read when all
is known.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Category = Literal["weights", "gradients", "optimizer", "activations", "temporary"]
CATEGORIES: tuple[Category, ...] = get_args(Category)

Scratch = Callable[[Any, tuple[Any, ...], Any], int]
"""``(operation, arguments, result) -> bytes`` that its kernel takes while it runs."""


@dataclass
class Holding:
    """One storage."""

    num_bytes: int
    category: Category = "temporary"


@dataclass(frozen=True)
class Peak:
    """Bytes held at the fullest moment, by what they were for."""

    by_category: Mapping[Category, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.by_category.values())


class Ledger(TorchDispatchMode):
    """Notes storages as they come and go.

    Args:
        round_up: What an allocator makes of a number of bytes.
        scratch: What kernels take while they run, which no tensor shows.
    """

    def __init__(self, round_up: Callable[[int], int], scratch: Scratch) -> None:
        super().__init__()
        self._round_up = round_up
        self._scratch = scratch
        self._live: dict[int, tuple[Any, Holding]] = {}
        self._events: list[tuple[Holding, int]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation and note what it made."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return _some_number(args[0])
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.arange and not result.is_floating_point():
            values = list(range(*args))
            result.tolist = lambda: values  # code that lists axes this way needs the real ones
        self.note(tree_leaves(result))
        if scratch := self._scratch(func, args, result):
            passing = Holding(self._round_up(scratch))
            self._events += [(passing, 1), (passing, -1)]
        return result

    def note(self, things: Iterable[Any], category: Category | None = None) -> None:
        """Note the storages of tensors not seen before; with a category, file all under it."""
        for tensor in things:
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._live:
                holding = self._live[key][1]
            else:
                holding = Holding(self._round_up(storage.nbytes()))
                reference = weakref.ref(storage, self._freed(key, holding))
                self._live[key] = (reference, holding)
                self._events.append((holding, 1))
            if category is not None:
                holding.category = category

    def note_rest(self, category: Category) -> None:
        """File everything held now and not filed yet."""
        for _, holding in self._live.values():
            if holding.category == "temporary":
                holding.category = category

    @property
    def now(self) -> int:
        """Number of events so far: a point in time for :meth:`peak`."""
        return len(self._events)

    @property
    def held(self) -> int:
        """Bytes held now."""
        return sum(holding.num_bytes for _, holding in self._live.values())

    def peak(self, start: int = 0) -> Peak:
        """The fullest moment after ``start``."""
        held = dict.fromkeys(CATEGORIES, 0)
        total, fullest, best = 0, -1, dict(held)
        for index, (holding, sign) in enumerate(self._events):
            held[holding.category] += sign * holding.num_bytes
            total += sign * holding.num_bytes
            if index >= start and total > fullest:
                fullest, best = total, dict(held)
        return Peak(best)

    def _freed(self, key: int, holding: Holding) -> Callable[[Any], None]:
        def free(_: Any) -> None:
            self._live.pop(key, None)
            self._events.append((holding, -1))

        return free


def _some_number(tensor: Tensor) -> float | int | bool:
    """What ``item()`` of a tensor without values gives: one, which passes for finite and true."""
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.is_floating_point() else 1
