"""Reading a few axial slices: from the stored volume against from the copy that lies by slices.

Bytes are those that the system fetched from the disk after it was told to forget the file, the
larger of two readings; CPU seconds are of the process, from a warm page cache. One real case,
image and label map, slices spread over its depth.

    python benchmarks/slices.py --out benchmarks/results/slices.md
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from bratsml.data.patches import read_patch
from bratsml.data.preprocess import preprocess_dataset
from bratsml.data.slices import read_slices
from bratsml.data.store import Store
from bratsml.files import write_text
from bratsml.tracking.environment import processor
from bratsml.workflows.preprocess import recipe_named

DEPTHS = (1, 3, 5, 8, 16, 32)
SIDE = 192
REPEATS = 40

Read = Callable[[int, int], None]
"""Reads slices from the first on, that many, into a patch."""


def readers(store: Store, case_id: str) -> dict[str, Read]:
    """The two ways to read, by name."""

    def fill(image: np.ndarray, label: np.ndarray, first: int, depth: int) -> None:
        read_patch(image, (0, 0, first), np.empty((4, SIDE, SIDE, depth), np.float32))
        read_patch(label, (0, 0, first), np.empty((SIDE, SIDE, depth), np.uint8))

    def from_volume(first: int, depth: int) -> None:
        label = store.label(case_id)
        assert label is not None
        fill(store.image(case_id), label, first, depth)

    def from_copy(first: int, depth: int) -> None:
        image, label, low = read_slices(store, case_id, first, depth)
        fill(image, label, first - low, depth)

    return {"volume": from_volume, "copy": from_copy}


def megabytes_from_disk(store: Store, case_id: str, read: Read, depth: int) -> float:
    """What one reading fetches when no page of the case is in memory."""
    fetched = []
    for _ in range(2):
        for path in (store.path / "cases" / case_id).glob("*.npy"):
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        before = bytes_fetched()
        read(50, depth)
        fetched.append(bytes_fetched() - before)
    return max(fetched) / 1e6


def bytes_fetched() -> int:
    """Bytes that this process has had read from disks."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def milliseconds(read: Read, depth: int, case_depth: int) -> float:
    """CPU time of one reading from a warm page cache."""
    firsts = np.linspace(0, case_depth - depth, REPEATS).astype(int).tolist()
    for first in firsts:
        read(first, depth)
    start = time.process_time()
    for first in firsts:
        read(first, depth)
    return (time.process_time() - start) / REPEATS * 1e3


def report(data: Path) -> Iterator[str]:
    """The lines of the result, as they become known."""
    with tempfile.TemporaryDirectory(dir=".") as folder:  # a disk, where /tmp may be memory
        store = preprocess_dataset(data, Path(folder) / "s", recipe_named("native"), progress=False)
        case_id = store.case_ids[0]
        shape = store.image(case_id).shape
        whole = store.image(case_id).nbytes / 1e6
        yield "# Reading axial slices from the stored volume and from the copy by slices"
        yield ""
        yield f"{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} cores, one thread,"
        yield f"torch {torch.__version__}. One BraTS 2021 case of {shape}, {whole:.1f} MB, and its"
        yield f"label map; patches of {SIDE} x {SIDE}; {REPEATS} readings each."
        yield ""
        yield "| slices | volume, MB from disk | copy | volume, CPU ms when cached | copy |"
        yield "|---|---|---|---|---|"
        ways = readers(store, case_id)
        ways["copy"](0, 1)  # makes it
        for depth in DEPTHS:
            disk = [megabytes_from_disk(store, case_id, ways[w], depth) for w in ways]
            cpu = [milliseconds(ways[w], depth, shape[-1]) for w in ways]
            yield (f"| {depth} | {disk[0]:.2f} | {disk[1]:.2f} | {cpu[0]:.2f} | {cpu[1]:.2f} |")


def main() -> None:
    default = Path(os.environ.get("BRATSML_DATA", "../shared/data")) / "brats2021"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--out", type=Path, help="file that gets the printed result")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for line in report(given.data):
        print(line, flush=True)
        lines.append(line)
    if given.out:
        write_text(given.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
