"""Writing files so that a crash never leaves half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from bratsml.errors import ResourceError
from bratsml.files.temporaries import temporary_file


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, fsync it, then rename it over ``path``.

    The old content of ``path`` stays intact whatever happens before the rename. The file's mode is
    what the user's umask makes of any new file.

    Raises:
        ResourceError: No space left, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, descriptor = temporary_file(path)
    except OSError as error:
        raise _resource_error(path, error) from error
    try:
        # Renamed while open: once closed it would count as abandoned.
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
            temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _resource_error(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Atomically replace ``path`` by ``content``."""
    write_atomically(path, lambda stream: _ignore(stream.write(content)))


def write_text(path: Path, content: str) -> None:
    """Atomically replace ``path`` by ``content`` in UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Atomically replace ``path`` by ``content`` as indented JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def sha256_of_json(content: Any) -> str:
    """SHA-256 of the canonical JSON text (sorted keys, no spaces) of ``content``."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _ignore(_: object) -> None:
    """Drop a return value where a callback must return nothing."""


def fsync_folder(folder: Path) -> None:
    """Make renames within ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _resource_error(path: Path, error: OSError) -> ResourceError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"no space left to write {path.name} in {path.parent}; free some disk")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return ResourceError(f"{path.parent} cannot be written; choose another output folder")
    return ResourceError(f"{path} could not be written: {error.strerror or error}")
