"""Preprocessing: ours against the same steps composed from MONAI's dictionary transforms.

Each contestant runs over the same cases in a fresh process with one thread, reading files that are
in the page cache and writing what training would read. Counted are CPU seconds (user and system)
and wall seconds per case without start-up, and the peak resident memory of the process.

    python benchmarks/preprocess.py --data FOLDER --out benchmarks/results/preprocess.md
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bratsml.data import nifti
from bratsml.data.cases import MODALITIES, CaseFiles, discover_cases
from bratsml.data.inflate import unpack_whole
from bratsml.data.pool import keep_freed_memory
from bratsml.data.preprocess import build_store
from bratsml.data.process import Task, process_case
from bratsml.tracking.environment import processor
from bratsml.workflows.preprocess import recipe_named

RECIPES = ("resize128", "native")
AIM_RATIO = 5.0
AIM_MEMORY_MB = 1024


@dataclass
class Measured:
    """Seconds per case, memory of the process, bytes written per case."""

    cpu: float
    wall: float
    memory_mb: float
    written_mb: float


def ours(recipe: str, out: Path) -> Callable[[CaseFiles], None]:
    chosen = recipe_named(recipe)
    keep_freed_memory()  # as every worker does

    def one(case: CaseFiles) -> None:
        _, record, _ = process_case(Task(case, chosen, "brats2021", out, False, "", {}))
        assert record.error is None, record.error

    return one


def monai(recipe: str, out: Path) -> Callable[[CaseFiles], None]:
    import torch
    from monai import transforms as mt

    torch.set_num_threads(1)
    keys = [*MODALITIES, "label"]
    linear = ["bilinear"] * len(MODALITIES) + ["nearest"]
    steps: list[Any] = [
        mt.LoadImaged(keys),
        mt.EnsureChannelFirstd(keys),
        mt.Orientationd(keys, axcodes="RAS", labels=None),
        mt.Spacingd(keys, pixdim=(1.0, 1.0, 1.0), mode=linear),
    ]
    if recipe == "resize128":
        steps += [
            mt.ScaleIntensityd(MODALITIES),
            mt.ConcatItemsd(MODALITIES, name="image"),
            mt.DeleteItemsd(MODALITIES),
            mt.CropForegroundd(["image", "label"], source_key="image", allow_smaller=True),
            mt.Resized(["image", "label"], (128, 128, 128), mode=["trilinear", "nearest"]),
            mt.MapLabelValued(["label"], [0, 1, 2, 4], [0, 1, 2, 3], dtype=torch.int64),
        ]
    else:
        steps += [
            mt.ConcatItemsd(MODALITIES, name="image"),
            mt.DeleteItemsd(MODALITIES),
            mt.CropForegroundd(["image", "label"], "image", margin=4, allow_smaller=True),
            mt.NormalizeIntensityd(["image"], nonzero=True, channel_wise=True),
            mt.CastToTyped(["image", "label"], [torch.float16, torch.uint8]),
        ]
    pipeline = mt.Compose(steps)

    def one(case: CaseFiles) -> None:
        arrays = pipeline({**case.images, "label": case.label})
        kept = {key: arrays[key].as_tensor().clone() for key in ("image", "label")}
        torch.save(kept, out / f"{case.id}.pt")

    return one


def ours_by_zlib(recipe: str, out: Path) -> Callable[[CaseFiles], None]:
    nifti.unpack_whole = lambda content, size: None
    return ours(recipe, out)


CONTESTANTS = {"ours": ours, "ours, zlib only": ours_by_zlib, "monai": monai}


def measure(contestant: str, recipe: str, data: Path) -> Measured:
    """Run one contestant over every case; called in its own process."""
    cases = discover_cases(data, need_labels=True).cases
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        one = CONTESTANTS[contestant](recipe, out)
        one(cases[0])  # start-up and first use of the libraries do not count
        cpu, wall = time.process_time(), time.perf_counter()
        for case in cases:
            one(case)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    memory_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    n = len(cases)
    return Measured(cpu / n, wall / n, memory_mb, written / n / 1e6)


def measure_apart(contestant: str, recipe: str, data: Path) -> Measured:
    """:func:`measure` in a fresh single-threaded process."""
    command = [sys.executable, __file__, "--data", str(data), "--one", contestant, recipe]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def parallel_lines(recipe: str, data: Path) -> Iterator[str]:
    """A whole run on every core, and the run after it that finds nothing to do."""
    with tempfile.TemporaryDirectory() as folder:
        first = build_store(data, Path(folder), recipe_named(recipe), progress=False)
        second = build_store(data, Path(folder), recipe_named(recipe), progress=False)
    yield (
        f"- `{recipe}`, {os.cpu_count()} cores: {first.num_done} cases in {first.seconds:.2f} s "
        f"({first.seconds / first.num_done:.2f} s per case, start of the workers included); "
        f"again, unchanged: {second.seconds * 1000:.0f} ms"
    )


def report(data: Path, repeats: int) -> Iterator[str]:
    """Lines of the result, as they are measured; of several repeats the fastest counts."""
    yield "# Preprocessing against MONAI's dictionary transforms"
    yield ""
    yield f"{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} cores, one thread each,"
    yield f"Python {platform.python_version()}, best of {repeats} interleaved repeats."
    quick = unpack_whole(gzip.compress(b"0"), 1) is not None
    yield f"Load average of the machine at the start: {os.getloadavg()[0]:.1f}."
    yield f"libdeflate, by which `ours` unpacks where it is installed: {'yes' if quick else 'no'}."
    yield ""
    yield "| recipe | who | CPU s/case | wall s/case | peak memory MB | written MB/case |"
    yield "|---|---|---|---|---|---|"
    verdicts = []
    for recipe in RECIPES:
        best: dict[str, Measured] = {}
        for _ in range(repeats):
            for who in CONTESTANTS:
                found = measure_apart(who, recipe, data)
                if who not in best or found.cpu < best[who].cpu:
                    best[who] = found
        for who, m in best.items():
            yield (
                f"| {recipe} | {who} | {m.cpu:.2f} | {m.wall:.2f} | {m.memory_mb:.0f} "
                f"| {m.written_mb:.1f} |"
            )
        peer = best.pop("monai")
        verdicts += [
            f"- `{recipe}`, {who}: {peer.cpu / m.cpu:.1f} times less CPU (aim {AIM_RATIO:.0f}), "
            f"{peer.wall / m.wall:.1f} times less wall time, "
            f"{m.memory_mb:.0f} MB (aim at most {AIM_MEMORY_MB})"
            for who, m in best.items()
        ]
    yield ""
    yield from verdicts
    for recipe in RECIPES:
        yield from parallel_lines(recipe, data)


def main() -> None:
    default = Path(os.environ.get("BRATSML_DATA", "../shared/data")) / "brats2021"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, help="file that gets the printed result")
    parser.add_argument("--one", nargs=2, metavar=("WHO", "RECIPE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(asdict(measure(*given.one, given.data))))
        return
    lines = []
    for line in report(given.data, given.repeats):
        print(line, flush=True)
        lines.append(line)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
