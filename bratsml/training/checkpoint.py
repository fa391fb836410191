"""Checkpoints that survive a crash, a full disk and a flipped bit.

A checkpoint is a torch file of plain tensors and numbers (``weights_only=True`` reads it) with its
SHA-256 beside it. ``last.pt`` is what training goes on from, ``previous.pt`` the one before,
``best.pt`` the one with the best validation score, ``kept/epoch_00012.pt`` one of several good ones
that wait to be made a soup of.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bratsml.config import flatten
from bratsml.errors import CheckpointError, ResourceError
from bratsml.files import read_end, sha256_of, write_bytes, write_text

FORMAT = 1
State = dict[str, Any]
"""``format, config, model, ema, optimizer, schedule, scaler, rng, position, best, history`` and
``kept``."""
KEPT_FOLDER = "kept"


def save_checkpoint(path: Path, state: State) -> None:
    """Write a checkpoint and its SHA-256, each atomically.

    Raises:
        ResourceError: Not enough disk (says how much is needed) or a folder that cannot be written;
            an older file at ``path`` stays intact.
    """
    _write(path, _encode(state))


def load_checkpoint(path: Path) -> State:
    """Read a checkpoint after checking it.

    Raises:
        CheckpointError: See :func:`read_plain`; or of another format.
    """
    state = read_plain(path)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {path.name} is not one of ours (format {FORMAT})")
    return state


def read_plain(path: Path) -> Any:
    """Read any torch file of plain data; where checkpoints of ours lie, only what is on record.

    Raises:
        CheckpointError: Missing, truncated, changed since it was written, or holding anything but
            plain data (such a file could run code).
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path.name} is not there; check the name")
    known = _known_hashes(path.parent)
    if known and sha256_of(path) not in known:
        raise CheckpointError(
            f"checkpoint {path.name} was changed or damaged since it was written (SHA-256 "
            "differs); use another one"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"checkpoint {path.name} holds more than plain data and could run code; it is refused"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"checkpoint {path.name} is damaged; use another one") from error


def require_same_config(state: State, config: dict[str, Any], name: str) -> None:
    """Refuse to resume a checkpoint of another configuration.

    Raises:
        CheckpointError: Naming every setting that differs.
    """
    before, now = flatten(state["config"]), flatten(config)
    changed = [
        f"{key}: {before.get(key, '(unset)')} -> {now.get(key, '(unset)')}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, "(unset)") != now.get(key, "(unset)")
    ]
    if changed:
        raise CheckpointError(
            f"checkpoint {name} belongs to another configuration ({'; '.join(changed)}); "
            "change it back or start a new run"
        )


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def last_path(self) -> Path:
        """What training goes on from."""
        return self.path / "last.pt"

    @property
    def previous_path(self) -> Path:
        """The one before the last."""
        return self.path / "previous.pt"

    @property
    def best_path(self) -> Path:
        """The one with the best validation score."""
        return self.path / "best.pt"

    def kept_path(self, epoch: int) -> Path:
        """Where an epoch's weights are kept for a soup; epochs count from 0."""
        return self.path / KEPT_FOLDER / f"epoch_{epoch:05d}.pt"

    @property
    def kept_paths(self) -> list[Path]:
        """What is kept for a soup now, in order of epochs."""
        return sorted((self.path / KEPT_FOLDER).glob("epoch_*.pt"))

    @property
    def has_last(self) -> bool:
        """Whether there is anything to resume."""
        return self.last_path.is_file() or self.previous_path.is_file()

    def save_last(self, state: State) -> None:
        """Write ``last.pt``; the old one becomes ``previous.pt`` unless it is damaged.

        The order keeps, after a crash at any point, one file whose hash is on record.

        Raises:
            ResourceError: See :func:`save_checkpoint`; the old files stay intact.
        """
        content = _encode(state)
        _require_space(self.path, len(content))
        if self.last_path.is_file():
            digest = sha256_of(self.last_path)
            # a damaged last must not take the place of the good one that training went on from
            if digest in _known_hashes(self.path):
                self.last_path.replace(self.previous_path)
                write_text(_sidecar(self.previous_path), f"{digest}  {self.previous_path.name}\n")
        _write(self.last_path, content)

    def save_best(self, state: State) -> None:
        """Write ``best.pt``; before :meth:`save_last`, which may name only a best that is kept.

        Raises:
            ResourceError: See :func:`save_checkpoint`; the old file stays intact.
        """
        save_checkpoint(self.best_path, state)

    def save_kept(self, epoch: int, state: State) -> None:
        """Write an epoch's weights; before :meth:`save_last`, which may name only what is kept.

        Raises:
            ResourceError: See :func:`save_checkpoint`.
        """
        save_checkpoint(self.kept_path(epoch), state)

    def drop_kept(self, staying: Iterable[int]) -> None:
        """Delete what is kept of other epochs; after :meth:`save_last`, which no longer names it.

        A crash in between leaves a file too many, which the next call deletes.
        """
        paths = {self.kept_path(epoch) for epoch in staying}
        for path in self.kept_paths:
            if path not in paths:
                path.unlink(missing_ok=True)
                _sidecar(path).unlink(missing_ok=True)

    def load_last(self) -> State | None:
        """The newest checkpoint that is whole, or ``None`` when there is none at all.

        A damaged ``last.pt`` is passed over with a warning.

        Raises:
            CheckpointError: There are checkpoints and every one is damaged.
        """
        problems = []
        for path in (self.last_path, self.previous_path):
            if not path.is_file():
                continue
            try:
                state = load_checkpoint(path)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(f"{problem}: going on from {path.name}", stacklevel=2)
            return state
        if problems:
            raise CheckpointError(f"no checkpoint can be resumed: {'; '.join(problems)}")
        return None


def _encode(state: State) -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """The hash first: until the file follows, the old one is on record under its second name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _require_space(path.parent, len(content))
    old = read_end(_sidecar(path)) if _sidecar(path).is_file() else ""
    line = f"{hashlib.sha256(content).hexdigest()}  {path.name}\n"
    write_text(_sidecar(path), line + "".join(f"# {kept}\n" for kept in old.splitlines()[:1]))
    write_bytes(path, content)


def _sidecar(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _known_hashes(folder: Path) -> set[str]:
    """Hashes on record beside any checkpoint of a folder, the one before each included."""
    return {
        line.lstrip("# ").split()[0]
        for sidecar in folder.glob("*.sha256")
        for line in read_end(sidecar).splitlines()
        if line.strip("# ")
    }


def _require_space(folder: Path, num_bytes: int) -> None:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise ResourceError(
            f"no space left for a checkpoint: it needs {num_bytes / 1e6:.0f} MB, "
            f"{free / 1e6:.0f} MB are free; free some disk and run the same command again"
        )
