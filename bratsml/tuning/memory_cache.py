"""What is remembered about memory from run to run: measurements, and trainings that ran out.

Every record is a small JSON file of its own, written atomically, so that processes need no lock.
They lie in ``memory`` in the user's cache folder, or where ``BRATSML_MEMORY_CACHE`` says; removing
the folder forgets them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from bratsml.compute.device import ComputeConfig, count_gpus
from bratsml.errors import ResourceError
from bratsml.files import parse_json, read_json, sha256_of_json, write_json
from bratsml.tuning.memory_key import Key, takes_at_least

CACHE_VARIABLE = "BRATSML_MEMORY_CACHE"
NAME_LENGTH = 24


@dataclass(frozen=True)
class RanOut:
    """A training that ran out of memory.

    Attributes:
        key: Its settings, see :func:`bratsml.tuning.memory_key.key_of`.
        budget_gb: What it was allowed to take.
        machine: See :func:`machine`.
        day: When, as ``2026-01-31``.
    """

    key: Key
    budget_gb: float
    machine: str
    day: str

    def speaks_against(self, key: Key, budget_gb: float, where: str) -> bool:
        """Whether settings at least as large cannot fit into a budget no larger."""
        return (
            self.machine == where and budget_gb <= self.budget_gb and takes_at_least(key, self.key)
        )


def cache_folder() -> Path:
    """Where the records are."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "bratsml" / "memory"


def machine(compute: ComputeConfig) -> str:
    """What else decides about memory: kind of device and version of PyTorch.

    The GPU's name is not in it: under the same budget one is like another.
    """
    device = "cuda" if count_gpus(compute) else "cpu"
    return f"{device}, torch {torch.__version__}"


def note_out_of_memory(key: Key, budget_gb: float, where: str) -> Path:
    """Remember it; the record's file.

    Raises:
        ResourceError: The folder cannot be written.
    """
    today = datetime.now().astimezone().date().isoformat()
    record = RanOut(key, budget_gb, where, today)
    name = sha256_of_json([key, budget_gb, where])[:NAME_LENGTH]
    path = cache_folder() / f"ran_out_{name}.json"
    write_json(path, asdict(record))
    return path


def find_out_of_memory(key: Key, budget_gb: float, where: str) -> RanOut | None:
    """A record that speaks against these settings under this budget."""
    for content in _records("ran_out_*.json"):
        with contextlib.suppress(TypeError, AttributeError, KeyError):
            record = RanOut(**content)
            if record.speaks_against(_as_json(key), budget_gb, where):
                return record
    return None


def note_measurement(name: object, content: dict[str, Any]) -> None:
    """Remember a measurement; a folder that cannot be written only means measuring again."""
    with contextlib.suppress(ResourceError):
        write_json(_measurement_path(name), content)


def find_measurement(name: object) -> dict[str, Any] | None:
    """What was remembered under that name (plain data)."""
    return _read(_measurement_path(name))


def _measurement_path(name: object) -> Path:
    return cache_folder() / f"measured_{sha256_of_json(name)[:NAME_LENGTH]}.json"


def _records(pattern: str) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(OSError):
        for path in sorted(cache_folder().glob(pattern)):
            content = _read(path)
            if content is not None:
                yield content


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _as_json(key: Key) -> Key:
    """As it comes back from a file."""
    found: Key = parse_json(json.dumps(key))
    return found
