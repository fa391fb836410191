"""Work spread over processes, one per core, that says which piece of work a dead worker held."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for_handles
from typing import TypeVar

from bratsml.errors import ResourceError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_KEPT_BYTES = 1 << 30

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


def usable_cores() -> int:
    """Cores this process may run on (a container's share, not the machine's)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_each(
    function: Callable[[TaskT], ResultT],
    tasks: Sequence[TaskT],
    workers: int,
    name_of: Callable[[TaskT], str],
) -> Iterator[ResultT]:
    """Results of ``function`` over ``tasks`` as they are ready, in any order.

    With one worker it all happens in this process. When a worker dies, what was unfinished is tried
    again with half as many, down to one, so that a shortage of memory mends itself.

    Args:
        function: Importable by name; started processes do not inherit this one's state.
        name_of: What a task is called in messages.

    Raises:
        ResourceError: A worker died with nothing beside it; names its task.
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    pending = deque(tasks)
    while pending:
        held: list[TaskT] = []
        try:
            yield from _run_in_pool(function, pending, held, workers)
        except BrokenProcessPool as error:
            if workers == 1:
                raise ResourceError(
                    f"the process working on {name_of(held[0])} was killed, most likely for want "
                    "of memory; free some, then run the same command again to go on"
                ) from error
            pending.extendleft(held)
            workers = max(1, workers // 2)


def _run_in_pool(
    function: Callable[[TaskT], ResultT], pending: deque[TaskT], held: list[TaskT], workers: int
) -> Iterator[ResultT]:
    """Run until ``pending`` is empty; ``held`` is what was handed out and has not come back."""
    running: dict[Future[ResultT], TaskT] = {}
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_prepare_worker
    )
    try:
        while pending or running:
            # No queue beyond the workers: what is held when one dies is what it may have died of.
            while pending and len(running) < workers:
                held.append(pending.popleft())
                running[pool.submit(function, held[-1])] = held[-1]
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                result = future.result()
                held.remove(running.pop(future))
                yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def keep_freed_memory() -> None:
    """Let this process reuse the memory of one case for the next instead of returning it.

    The C library otherwise gives every large array back and fetches fresh pages for the next, which
    costs a tenth of preprocessing. Does nothing where the library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and do not outlive it."""
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    wait_for_handles([sentinel])
    os._exit(1)
