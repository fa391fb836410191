"""Metrics: ours against MONAI's, and lesion-wise rules against the published algorithm.

Five real predictions and their references, as masks in memory. Each contestant scores all of them
in a fresh process with one thread; CPU seconds (user and system) and wall seconds are per case,
without start-up. The published algorithm is that of the organisers' programs, step by step on whole
volumes (``tests/unit/metrics/lesions_by_definition.py``); the programs themselves also write and
read files in between. The same run compares the numbers.

    python benchmarks/metrics.py --data FOLDER --out benchmarks/results/metrics.md
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bratsml.metrics.empty import BRATS
from bratsml.metrics.lesions import score_lesions
from bratsml.metrics.overlap import dice
from bratsml.metrics.rules import RULES
from bratsml.metrics.surface import hausdorff95_mm, normalized_surface_dice
from bratsml.tracking.environment import processor

DEFINITION = Path(__file__).parents[1] / "tests" / "unit" / "metrics"
CASES = ("00000", "00002", "00014", "00024", "00031")
REGIONS = ("WT", "TC", "ET")
MM = (1.0, 1.0, 1.0)
VALUES = {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "NETC": (1,), "SNFH": (2,), "RC": (4,)}
PEDIATRIC = {"WT": (1, 2, 3, 4), "TC": (1, 2, 3), "ET": (1,), "NETC": (2,), "CC": (3,), "ED": (4,)}
MEASURED_RULES = (
    "brats2023-gli",
    "brats2023-met",
    "brats2025-gli",
    "brats2025-ssa",
    "brats2025-ped",
    "brats2025-met",
)
AIM_CPU = 0.7
AIM_RATIO = 5.0

Masks = dict[str, Any]
Numbers = dict[str, float]


@dataclass
class Measured:
    """Seconds per case over all cases, the slowest case, and every number found."""

    cpu: float
    slowest_cpu: float
    wall: float
    numbers: Numbers


def pairs(data: Path, tissues: tuple[str, ...], values: dict[str, Any]) -> Iterator[Any]:
    """``(case, prediction masks, reference masks)``; labels of 2021 mapped to those of 2023."""
    for case in CASES:
        sides = []
        for path in (
            data / "predictions" / f"BraTS2021_{case}.nii.gz",
            data / "brats2021" / f"BraTS2021_{case}" / f"BraTS2021_{case}_seg.nii.gz",
        ):
            label_map = np.asarray(nib.load(path).dataobj).astype(np.uint8)
            label_map[label_map == 4] = 3
            label_map = np.ascontiguousarray(label_map)
            sides.append({t: np.isin(np.arange(5), values[t])[label_map] for t in tissues})
        yield case, *sides


def hd95_ours(prediction: Masks, reference: Masks) -> Numbers:
    return {r: hausdorff95_mm(prediction[r], reference[r], MM) for r in REGIONS}


def hd95_elements_ours(prediction: Masks, reference: Masks) -> Numbers:
    return {r: hausdorff95_mm(prediction[r], reference[r], MM, surface="elements") for r in REGIONS}


def hd95_elements_published(prediction: Masks, reference: Masks) -> Numbers:
    return {r: definition().hd95(prediction[r], reference[r], MM) for r in REGIONS}


def hd95_monai(prediction: Masks, reference: Masks) -> Numbers:
    from monai.metrics import compute_hausdorff_distance

    found = compute_hausdorff_distance(
        *tensors(prediction, reference), include_background=True, percentile=95, spacing=MM
    )
    return dict(zip(REGIONS, found[0].tolist(), strict=True))


def three_ours(prediction: Masks, reference: Masks) -> Numbers:
    numbers = {f"hd95 {r}": v for r, v in hd95_ours(prediction, reference).items()}
    for r in REGIONS:
        pair = prediction[r], reference[r]
        numbers[f"dice {r}"] = dice(*pair, BRATS)
        numbers[f"nsd {r}"] = normalized_surface_dice(*pair, MM, 1.0)
    return numbers


def three_monai(prediction: Masks, reference: Masks) -> Numbers:
    from monai.metrics import compute_dice, compute_surface_dice

    numbers = {f"hd95 {r}": v for r, v in hd95_monai(prediction, reference).items()}
    both = tensors(prediction, reference)
    overlap = compute_dice(*both)[0].tolist()
    near = compute_surface_dice(*both, [1.0] * 3, include_background=True, spacing=MM)[0].tolist()
    for i, r in enumerate(REGIONS):
        numbers[f"dice {r}"], numbers[f"nsd {r}"] = overlap[i], near[i]
    return numbers


def tensors(*sides: Masks) -> list[Any]:
    import torch

    return [torch.from_numpy(np.stack([s[r] for r in REGIONS]))[None].float() for s in sides]


def definition() -> Any:
    if str(DEFINITION) not in sys.path:
        sys.path.insert(0, str(DEFINITION))
    import lesions_by_definition

    return lesions_by_definition


def rule_ours(name: str) -> Callable[[Masks, Masks], Numbers]:
    def one(prediction: Masks, reference: Masks) -> Numbers:
        numbers: Numbers = {}
        for found in score_lesions(prediction, reference, MM, RULES[name]):
            values = asdict(found)
            region = values.pop("region")
            numbers |= flat(region, values)
        return numbers

    return one


def rule_published(name: str) -> Callable[[Masks, Masks], Numbers]:
    def one(prediction: Masks, reference: Masks) -> Numbers:
        tolerances = RULES[name].tolerances_mm
        scores = definition().score(name, prediction, reference, MM, tolerances)
        numbers: Numbers = {}
        for region, values in scores.items():
            numbers |= flat(region, values)
        return numbers

    return one


SCORES = ("dice", "hd95_mm", "nsd", "lesion_dice", "lesion_hd95_mm", "lesion_nsd")
COUNTS = ("num_matched", "num_missed", "num_false")


def flat(region: str, values: dict[str, Any]) -> Numbers:
    """The scores both sides have, lists of them one by one."""
    return {
        f"{region} {key} {i}": float(value)
        for key in (*SCORES, *COUNTS)
        for i, value in enumerate(np.atleast_1d(values[key]))
    }


TASKS: dict[str, dict[str, Callable[[Masks, Masks], Numbers]]] = {
    "HD95 of boundary voxels, 3 regions": {"ours": hd95_ours, "MONAI": hd95_monai},
    "Dice, HD95, NSD 1 mm, 3 regions": {"ours": three_ours, "MONAI": three_monai},
    "HD95 of elements, 3 regions": {
        "ours": hd95_elements_ours,
        "published": hd95_elements_published,
    },
} | {name: {"ours": rule_ours(name), "published": rule_published(name)} for name in MEASURED_RULES}


def measure(task: str, who: str, data: Path) -> Measured:
    """Score every pair; called in its own process."""
    warnings.simplefilter("ignore")
    rule = RULES.get(task)
    values = PEDIATRIC if task.endswith("ped") else VALUES
    score, cpu, walls, numbers = TASKS[task][who], [], [], {}
    for case, *sides in pairs(data, rule.tissues if rule else REGIONS, values):
        if not cpu:  # first use of the libraries does not count
            score(*({t: m[::6, ::6, ::6].copy() for t, m in side.items()} for side in sides))
        start, wall = time.process_time(), time.perf_counter()
        found = score(*sides)
        cpu.append(time.process_time() - start)
        walls.append(time.perf_counter() - wall)
        numbers |= {f"{case} {key}": value for key, value in found.items()}
    return Measured(sum(cpu) / len(cpu), max(cpu), sum(walls) / len(walls), numbers)


def measure_apart(task: str, who: str, data: Path) -> Measured:
    """:func:`measure` in a fresh single-threaded process."""
    command = [sys.executable, __file__, "--data", str(data), "--one", task, who]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def largest_difference(first: Numbers, second: Numbers) -> float:
    if first.keys() != second.keys():
        raise SystemExit(f"other numbers: {sorted(first.keys() ^ second.keys())[:5]}")
    return max(abs(first[key] - second[key]) / max(1.0, abs(second[key])) for key in first)


def report(data: Path, repeats: int) -> Iterator[str]:
    """Lines of the result, as they are measured; of several repeats the fastest counts."""
    yield "# Metrics against MONAI's and against the published lesion-wise algorithm"
    yield ""
    yield f"{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} cores, one thread each,"
    yield f"Python {platform.python_version()}, best of {repeats} repeats (published: one)."
    yield f"Load average of the machine at the start: {os.getloadavg()[0]:.1f}."
    yield "Five real predictions, 240 x 240 x 155 voxels; masks in memory to numbers."
    yield ""
    yield "| what | who | CPU s/case | slowest case | wall s/case | largest difference |"
    yield "|---|---|---|---|---|---|"
    verdicts = []
    for task, contestants in TASKS.items():
        best: dict[str, Measured] = {}
        for repeat in range(repeats):
            for who in contestants:
                if repeat and who == "published":
                    continue
                found = measure_apart(task, who, data)
                if who not in best or found.cpu < best[who].cpu:
                    best[who] = found
        mine = best["ours"]
        for who, m in best.items():
            differs = largest_difference(mine.numbers, m.numbers)
            shown = "" if who == "ours" else f"{differs:.0e} of {len(m.numbers)} numbers"
            yield (
                f"| {task} | {who} | {m.cpu:.3f} | {m.slowest_cpu:.3f} | {m.wall:.3f} | {shown} |"
            )
        verdicts.append(verdict(task, mine, *(m for who, m in best.items() if who != "ours")))
    yield ""
    yield from verdicts


def verdict(task: str, ours: Measured, peer: Measured) -> str:
    faster = f"- {task}: {peer.cpu / ours.cpu:.1f} times less CPU"
    if task in RULES:
        return f"{faster}; slowest case {ours.slowest_cpu:.2f} s (aim below {AIM_CPU} s)"
    return f"{faster} (aim {AIM_RATIO:.0f})" if "boundary" in task else faster


def main() -> None:
    default = Path(os.environ.get("BRATSML_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file that gets the printed result")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "WHO"), help=argparse.SUPPRESS)
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
