"""Patches per second: ours against loading whole cases with ``torch.load`` and cropping them.

Both read the same preprocessed cases from a warm page cache, in one process, without augmentation:
ours from the store, the peer from one ``.pt`` file per case that holds the whole image as float32
and the label map as int64, the way the forerunner of this project kept them (50 MB for 128 cubed).
Repetitions are interleaved and a ratio is taken within each, so that a busy machine slows both
alike. CPU seconds of the process count, which other work on the machine disturbs less.

    python benchmarks/loader.py --out benchmarks/results/loader.md
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from bratsml.data.cases import discover_cases
from bratsml.data.loader import LoaderConfig, PatchLoader
from bratsml.data.preprocess import preprocess_dataset
from bratsml.data.store import Store
from bratsml.files import write_text
from bratsml.geometry import Shape
from bratsml.tracking.environment import processor
from bratsml.workflows.preprocess import recipe_named

AIM_RATIO = 5.0
SEED = 0
COMPARISONS: tuple[tuple[str, int], ...] = (
    ("resize128", 64),
    ("resize128", 96),
    ("native", 64),
    ("native", 96),
    ("native", 128),
)
"""Recipe and side of the cubic patch."""

Patch = tuple[torch.Tensor, torch.Tensor]


class WholeCases(torch.utils.data.Dataset[Patch]):
    """The peer: every patch loads its whole case."""

    def __init__(self, files: list[Path], side: int) -> None:
        self.files, self.side = files, side
        self.rng = np.random.default_rng(SEED)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Patch:
        case = torch.load(self.files[index], weights_only=True)
        image, label = case["image"], case["label"]
        room = [max(size - self.side, 0) for size in label.shape]
        box = tuple(slice(s, s + self.side) for s in self.rng.integers(0, np.add(room, 1)))
        return image[(slice(None), *box)].contiguous(), label[box].contiguous()


def write_whole_cases(store: Store, folder: Path, side: int) -> list[Path]:
    """One ``.pt`` file per case, padded to the patch where the case is smaller."""
    files = []
    for case_id in store.case_ids:
        label = store.label(case_id)
        assert label is not None
        missing = [(0, max(side - size, 0)) for size in label.shape]
        image = np.pad(store.image(case_id).astype(np.float32), [(0, 0), *missing])
        whole = np.pad(label.astype(np.int64), missing)
        path = folder / f"{case_id}_{side}.pt"
        torch.save({"image": torch.from_numpy(image), "label": torch.from_numpy(whole)}, path)
        files.append(path)
    return files


def seconds_of_ours(store: Store, side: int) -> Callable[[int], float]:
    """CPU seconds per patch of an epoch."""
    shape: Shape = (side, side, side)
    config = LoaderConfig(patch=shape, samples_per_epoch=len(store.case_ids), augment=(), workers=0)
    loader = PatchLoader(store, store.case_ids, config, SEED)

    def epoch(number: int) -> float:
        start = time.process_time()
        count = sum(len(batch.case_ids) for batch in loader.epoch(number))
        return (time.process_time() - start) / count

    return epoch


def seconds_of_peer(files: list[Path], side: int) -> Callable[[int], float]:
    """CPU seconds per patch of an epoch."""
    loader = torch.utils.data.DataLoader(WholeCases(files, side), batch_size=1, shuffle=True)

    def epoch(_: int) -> float:
        start = time.process_time()
        count = sum(len(image) for image, _ in loader)
        return (time.process_time() - start) / count

    return epoch


def compare(store: Store, side: int, folder: Path, repeats: int) -> tuple[float, float, str]:
    """Median patches per CPU second of ours and the peer, and the ratio with its quartiles."""
    files = write_whole_cases(store, folder, side)
    ours, peer = seconds_of_ours(store, side), seconds_of_peer(files, side)
    pairs = []
    for repeat in range(repeats + 1):
        if repeat % 2:
            a, b = ours(repeat), peer(repeat)
        else:
            b, a = peer(repeat), ours(repeat)
        pairs.append((a, b))
    pairs = pairs[1:]  # the first fills the page cache
    for path in files:
        path.unlink()
    each = [b / a for a, b in pairs]
    low, middle, high = statistics.quantiles(each, n=4)
    rates = [1 / statistics.median(seconds) for seconds in zip(*pairs, strict=True)]
    return rates[0], rates[1], f"{middle:.1f} | {low:.1f} to {high:.1f}"


def report(data: Path, repeats: int) -> Iterator[str]:
    """The lines of the result, as they become known."""
    num_cases = len(discover_cases(data, need_labels=True).cases)
    yield "# Patches per second against whole `.pt` cases"
    yield ""
    yield f"{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} cores, one process,"
    yield f"{torch.get_num_threads()} thread(s), torch {torch.__version__},"
    yield f"Python {platform.python_version()}. {num_cases} BraTS 2021 cases, warm page"
    yield f"cache, no augmentation, CPU seconds, {repeats} interleaved repetitions."
    yield ""
    yield "| recipe | patch | ours, patches/s | whole cases | ratio, median | quartiles |"
    yield "|---|---|---|---|---|---|"
    reached = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stores = {
            name: preprocess_dataset(data, folder / name, recipe_named(name), progress=False)
            for name in dict(COMPARISONS)
        }
        for name, side in COMPARISONS:
            ours, peer, ratio = compare(stores[name], side, folder, repeats)
            yield f"| {name} | {side} cubed | {ours:.1f} | {peer:.1f} | {ratio} |"
            reached.append((float(ratio.split(" ")[0]), f"{name} {side}"))
    missed = [f"{where}: {ratio:.1f}" for ratio, where in reached if ratio < AIM_RATIO]
    yield ""
    yield f"Aim: at least {AIM_RATIO:g} times; " + (
        f"missed by {', '.join(missed)}." if missed else "reached everywhere."
    )


def main() -> None:
    default = Path(os.environ.get("BRATSML_DATA", "../shared/data")) / "brats2021"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, help="file that gets the printed result")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for line in report(given.data, given.repeats):
        print(line, flush=True)
        lines.append(line)
    if given.out:
        write_text(given.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
