"""Where output may go: never into, around or on top of what is read.

Writing replaces and cleans up. Done in a folder of raw scans, that deletes data nobody can make
again. So every command that reads one folder and writes another asks here first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from bratsml.errors import ConfigError


def require_apart(output: Path, inputs: Iterable[Path], what: str = "the data") -> None:
    """Refuse an output folder that overlaps a folder or file that is read.

    Compared are the places themselves (device and inode), so another spelling, a link or a bind
    mount of the same folder is found too. Neither side need exist.

    Args:
        output: Where a command would write.
        inputs: What it reads.
        what: What the inputs are, for the message.

    Raises:
        ConfigError: They overlap; nothing was written.

    Example:
        >>> require_apart(Path("/scans/out"), [Path("/scans")])
        Traceback (most recent call last):
        ...
        bratsml.errors.ConfigError: /scans/out lies inside the data (/scans); choose an output
        folder apart from it
    """
    for source in inputs:
        relation = _overlap(output, source)
        if relation:
            raise ConfigError(
                f"{output} {relation} {what} ({source}); choose an output folder apart from it"
            )


def _overlap(output: Path, source: Path) -> str:
    """How the two places overlap, in words, or nothing."""
    outer, inner = _lineage(output), _lineage(source)
    if outer[0] == inner[0]:
        return "is the same place as"
    if inner[0] in outer:
        return "lies inside"
    if outer[0] in inner:
        return "contains"
    return ""


def _lineage(path: Path) -> list[object]:
    """A key of the place and of every folder above it, the place first.

    What exists is known by device and inode; what does not exist yet by its names below the
    nearest folder that does.
    """
    real = Path(os.path.realpath(path))
    above = [real, *real.parents]
    existing = [place for place in above if place.exists()]
    missing = above[: len(above) - len(existing)]
    keys: list[object] = [(place.stat().st_dev, place.stat().st_ino) for place in existing]
    return [(keys[0], place.relative_to(existing[0]).parts) for place in missing] + keys
