"""Augmentation at nnU-Net's strength: patches per second against MONAI's transforms.

Both apply the same list (that of ``experiments/dynunet.yaml``) to the same patches of 64 voxels a
side with four modalities, in one process on one thread; the peer through MONAI's dictionary
transforms. Repetitions are interleaved and a ratio is taken within each, so that a busy machine
slows both alike. CPU seconds of the process count. Where MONAI's transform draws one value for all
modalities there is a copy for each, so that both change as many voxels. Contrast and the mask of
the brain, which it has no transform for, are left out of both.

    python benchmarks/augment.py --out benchmarks/results/augment.md
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
from monai import transforms

from bratsml.data.augment import AugmentStep, WithinBrain, augment
from bratsml.experiment import load_experiment
from bratsml.files import write_text
from bratsml.tracking.environment import processor

SIDE = 64
SEED = 0
AIM_RATIO = 1.0
LABELS = (0, 1, 2, 4)
MODALITIES = ("t1n", "t1c", "t2w", "t2f")
EXPERIMENT = Path(__file__).resolve().parents[1] / "experiments" / "dynunet.yaml"
Pipeline = Callable[[np.ndarray, np.ndarray, int], None]


def steps_of_both() -> tuple[AugmentStep, ...]:
    """nnU-Net's list without what MONAI has no transform for."""
    steps: list[Any] = []
    for step in load_experiment(EXPERIMENT).loader.augment:
        steps += step.steps if isinstance(step, WithinBrain) else [step]
    return tuple(step for step in steps if step.kind != "contrast")


def ours(steps: tuple[AugmentStep, ...]) -> Pipeline:
    """A patch through our steps."""

    def apply(image: np.ndarray, label: np.ndarray, seed: int) -> None:
        augment(image, label, steps, np.random.default_rng(seed))

    return apply


def peer(steps: tuple[AugmentStep, ...]) -> Pipeline:
    """A patch through MONAI's transforms with the same probabilities and limits."""
    chain = transforms.Compose([one for step in steps for one in _equivalents(step)])

    def apply(image: np.ndarray, label: np.ndarray, seed: int) -> None:
        chain.set_random_state(seed)
        given = {name: torch.from_numpy(image[i : i + 1]) for i, name in enumerate(MODALITIES)}
        chain(given | {"label": torch.from_numpy(label[None])})

    return apply


def _equivalents(step: Any) -> list[transforms.Transform]:
    keys = [*MODALITIES, "label"]
    p = step.probability
    match step.kind:
        case "rotate_scale":
            modes = ["bilinear"] * len(MODALITIES) + ["nearest"]
            angle = float(np.deg2rad(step.degrees))
            shared = {"keys": keys, "mode": modes, "padding_mode": "zeros"}
            both = 1 - (1 - p) * (1 - step.scale_probability)  # one resampling, as often as ours
            low, high = 1 / step.factor[1] - 1, 1 / step.factor[0] - 1
            limits = {"rotate_range": (angle,) * 3, "scale_range": [(low, high)] * 3}
            return [transforms.RandAffined(prob=both, **limits, **shared)]
        case "flip":
            return [transforms.RandFlipd(keys, prob=p, spatial_axis=axis) for axis in range(3)]
        case "gaussian_noise":
            return [transforms.RandGaussianNoised([m], prob=p, std=step.std[1]) for m in MODALITIES]
        case "gaussian_blur":
            sigmas = dict.fromkeys(("sigma_x", "sigma_y", "sigma_z"), step.sigma)
            own = p * step.modality_probability
            return [transforms.RandGaussianSmoothd([m], prob=own, **sigmas) for m in MODALITIES]
        case "scale_intensity":
            limits = (step.factor[0] - 1, step.factor[1] - 1)
            return [transforms.RandScaleIntensityd([m], limits, prob=p) for m in MODALITIES]
        case "low_resolution":
            own = p * step.modality_probability
            return [
                transforms.RandSimulateLowResolutiond([m], prob=own, zoom_range=step.factor)
                for m in MODALITIES
            ]
        case "gamma":
            curve = {"gamma": step.exponent, "invert_image": step.inverted, "retain_stats": True}
            return [transforms.RandAdjustContrastd([m], prob=p, **curve) for m in MODALITIES]
    raise ValueError(f"no equivalent of {step.kind}")


def seconds(pipeline: Pipeline, seeds: range) -> float:
    """CPU seconds per patch; making the patches is not counted."""
    total = 0.0
    for seed in seeds:
        image, label = patch(seed)
        start = time.process_time()
        pipeline(image, label, seed)
        total += time.process_time() - start
    return total / len(seeds)


def patch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a block of labels: what is in a patch does not change what it costs."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((len(MODALITIES), SIDE, SIDE, SIDE), dtype=np.float32)
    return image, rng.choice(np.array(LABELS, np.uint8), (SIDE, SIDE, SIDE))


def compare(steps: tuple[AugmentStep, ...], repeats: int, count: int) -> tuple[float, float, str]:
    """Median patches per CPU second of ours and the peer, and the ratio with its quartiles."""
    first, second = ours(steps), peer(steps)
    pairs = []
    for repeat in range(repeats + 1):
        seeds = range(repeat * count, (repeat + 1) * count)
        if repeat % 2:
            a, b = seconds(first, seeds), seconds(second, seeds)
        else:
            b, a = seconds(second, seeds), seconds(first, seeds)
        pairs.append((a, b))
    pairs = pairs[1:]  # the first loads code
    low, middle, high = statistics.quantiles([b / a for a, b in pairs], n=4)
    rates = [1 / statistics.median(times) for times in zip(*pairs, strict=True)]
    return rates[0], rates[1], f"{middle:.1f} | {low:.1f} to {high:.1f}"


def report(repeats: int, count: int) -> Iterator[str]:
    """The lines of the result, as they become known."""
    yield "# Augmentation at nnU-Net's strength against MONAI's transforms"
    yield ""
    yield f"{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} cores, one process,"
    yield f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, MONAI"
    yield f"{monai.__version__}, Python {platform.python_version()}. Patches of {SIDE} cubed, four"
    yield f"modalities, {repeats} interleaved repetitions of {count} patches; single steps always"
    yield "happen, to every modality, in a fifth as many patches. CPU seconds."
    yield ""
    yield "| steps | ours, patches/s | MONAI | ratio, median | quartiles |"
    yield "|---|---|---|---|---|"
    steps = steps_of_both()
    mine, theirs, ratio = compare(steps, repeats, count)
    yield f"| the whole list | {mine:.1f} | {theirs:.1f} | {ratio} |"
    for step in steps:
        always = {"probability": 1.0, "scale_probability": 1.0, "modality_probability": 1.0}
        sure = {name: value for name, value in always.items() if name in type(step).model_fields}
        one = (step.model_copy(update=sure),)
        ours_alone, theirs_alone, its_ratio = compare(one, repeats, max(count // 5, 2))
        name = f"{step.kind}{' inverted' if getattr(step, 'inverted', False) else ''}"
        yield f"| {name} alone | {ours_alone:.1f} | {theirs_alone:.1f} | {its_ratio} |"
    reached = float(ratio.split(" ")[0]) >= AIM_RATIO
    yield ""
    yield f"Aim: the whole list at least as fast; {'reached' if reached else 'missed'}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--patches", type=int, default=20, help="in each repetition")
    parser.add_argument("--out", type=Path, help="file that gets the printed result")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = []
    for line in report(given.repeats, given.patches):
        print(line, flush=True)
        lines.append(line)
    if given.out:
        write_text(given.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
