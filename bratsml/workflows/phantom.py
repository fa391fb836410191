"""``phantom``: write synthetic patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bratsml.config import build_config
from bratsml.data.phantom import PhantomConfig, write_phantoms
from bratsml.workflows.arguments import whole_number
from bratsml.workflows.console import say


def phantom(out: str, cases: int, layout: str, shape: str, seed: int) -> list[str]:
    """Write a phantom set and say where; values that are empty or 0 keep the defaults.

    Raises:
        ConfigError: The shape is not three whole numbers, or a setting is out of range.
    """
    changes: dict[str, Any] = {}
    if cases:
        changes["cases"] = cases
    if layout:
        changes["layout"] = layout
    if shape:
        changes["shape"] = [whole_number("shape", part, 16) for part in shape.split(",")]
    if seed:
        changes["seed"] = seed
    config = build_config(PhantomConfig, changes)
    case_ids = write_phantoms(Path(out), config)
    x, y, z = config.shape
    say(f"{len(case_ids)} phantom cases of {x}x{y}x{z} voxels ({config.layout}) in {out}")
    return case_ids
