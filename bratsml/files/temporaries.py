"""Temporary files and folders beside what they become, under names that nobody else uses.

A process that is killed leaves what it was writing. To clean up, one must know that a name is ours
and that nobody is still writing it. The name tells the first: ``.bratsml-<16 hex digits>~<rest>``.
A lock on the entry itself tells the second: its maker holds one as long as it lives, and the
kernel lets go of it whatever the maker dies of. No process numbers, which another machine on the
same disk could not look up, and no ages, which a slow machine would make wrong.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NAME = re.compile(r"\.bratsml-[0-9a-f]{16}~.*", re.DOTALL)
_KEPT_OF_NAME = 150
"""Characters of the final name that the temporary one repeats; names end at 255 bytes."""


def temporary_path(path: Path) -> Path:
    """A fresh temporary name beside ``path``; nothing is made."""
    kept = path.name.encode()[:_KEPT_OF_NAME].decode(errors="ignore")
    return path.with_name(f".bratsml-{secrets.token_hex(8)}~{kept}")


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is a temporary of this package.

    Example:
        >>> is_temporary(".bratsml-0123456789abcdef~image.npy"), is_temporary(".git")
        (True, False)
    """
    return _NAME.fullmatch(name) is not None


def temporary_file(path: Path) -> tuple[Path, int]:
    """Make a temporary file beside ``path``; its name, and a descriptor open for writing.

    It counts as in use until the descriptor is closed. Its mode follows the umask.

    Raises:
        OSError: It cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        temporary = temporary_path(path)
        descriptor = os.open(temporary, flags, 0o666)
        if _held(temporary, descriptor):
            return temporary, descriptor
        os.close(descriptor)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A fresh folder beside ``path`` to be filled and renamed; what is left of it is removed.

    Args:
        path: What the folder may become, or any name in the parent folder that tells what it is.

    Raises:
        OSError: It cannot be made.
    """
    while True:
        folder = temporary_path(path)
        folder.mkdir()
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        if _held(folder, descriptor):
            break
        os.close(descriptor)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_abandoned(folder: Path) -> list[Path]:
    """Delete temporaries directly inside ``folder`` whose makers are gone; returns what went.

    Links and everything under other names stay, and so does what a living process holds.
    A folder that is not there or cannot be read has none.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if is_temporary(path.name))
    except OSError:
        return []
    return [path for path in entries if _remove_if_abandoned(path)]


def _held(path: Path, descriptor: int) -> bool:
    """Lock an entry just made; False if someone who cleans up was faster and has removed it.

    Where the file system knows no locks the entry goes unmarked, and :func:`remove_abandoned`,
    which cannot lock it either, leaves it alone.
    """
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _remove_if_abandoned(path: Path) -> bool:
    """Remove a file or folder that nobody holds, holding it meanwhile; whether that was done."""
    try:
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISDIR(mode):
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
