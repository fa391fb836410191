"""Reading files that may be anything: a pipe, a device, far too large, not what their name says.

A pipe blocks whoever opens it, a device such as ``/dev/zero`` never ends, and a link to either
looks like a file. So what is not an ordinary file is refused before it is opened, and no more is
read than the reader can make use of. All refusals are :class:`OSError` with a ``strerror`` that
goes into a sentence, or :class:`ValueError` for content: callers already turn both into theirs.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import stat
from pathlib import Path
from typing import Any

from bratsml.files.names import printable

HASH_BLOCK_BYTES = 1 << 20
TEXT_LIMIT_BYTES = 64 << 20
"""More than any text this package writes or expects: a store index of 100,000 cases has 10 MB."""

END_LIMIT_BYTES = 1 << 16

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotAFileError(OSError):
    """The name belongs to a folder, pipe, socket or device; ``strerror`` says which."""


class FileTooLargeError(OSError):
    """The file holds more than its reader takes; ``strerror`` gives both sizes."""


def open_file(path: Path) -> io.BufferedReader:
    """Open an ordinary file for reading bytes; a link is followed.

    Raises:
        NotAFileError: It is something else; nothing was opened or read.
        OSError: It cannot be opened.
    """
    _require_ordinary(path.stat().st_mode, path)
    # Should a pipe take the name after that look, O_NONBLOCK keeps opening it from waiting.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _require_ordinary(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of an ordinary file of at most ``limit`` bytes.

    Raises:
        FileTooLargeError: It holds more, whatever size its folder entry claims.
        OSError: As :func:`open_file`.
    """
    with open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        # Files below /proc claim size 0 and may go on for ever, so the claim alone proves nothing.
        content = stream.read(size + 1) if size <= limit else b""
        while size < len(content) <= limit and (more := stream.read(HASH_BLOCK_BYTES)):
            content += more
    if size > limit or len(content) > limit:
        found = f"{size / 1e6:.1f} MB" if size > limit else "more"
        raise FileTooLargeError(
            errno.EFBIG, f"has {found}, at most {limit / 1e6:.1f} MB are read", str(path)
        )
    return content


def read_text(path: Path, limit: int = TEXT_LIMIT_BYTES) -> str:
    """The content of a UTF-8 text file.

    Raises:
        UnicodeDecodeError: Not UTF-8 (a :class:`ValueError`).
        OSError: As :func:`read_bytes`.
    """
    return read_bytes(path, limit).decode("utf-8")


def read_json(path: Path, limit: int = TEXT_LIMIT_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: Not UTF-8, not JSON, nested too deeply for the parser, or a number too long.
        OSError: As :func:`read_bytes`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "x.json"
        ...     _ = path.write_text('{"lr": 1e-3}')
        ...     read_json(path)
        {'lr': 0.001}
    """
    return parse_json(read_text(path, limit))


def parse_json(text: str) -> Any:
    """The content of JSON text.

    Raises:
        ValueError: Not JSON, a name given twice in one object, nested too deeply for the parser, or
            a number too long; half a sentence that says so.

    Example:
        >>> parse_json('{"fold": 0, "fold": 1}')
        Traceback (most recent call last):
        ...
        ValueError: names 'fold' twice
    """
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON ({error})") from None


def read_end(path: Path, limit: int = END_LIMIT_BYTES) -> str:
    """The last bytes of a text file such as a log, what is not UTF-8 replaced.

    Raises:
        OSError: As :func:`open_file`.
    """
    with open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        stream.seek(max(0, size - limit))
        return stream.read(limit).decode("utf-8", "replace")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of an ordinary file, read in blocks.

    Raises:
        OSError: As :func:`open_file`.
    """
    digest = hashlib.sha256()
    with open_file(path) as stream:
        while block := stream.read(HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs; of two equal names the parser would keep the last in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"names '{printable(name, 60)}' twice")
            seen.add(name)
    return found


def _require_ordinary(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "no ordinary file")
        raise NotAFileError(errno.EINVAL, f"is {kind}, not a file", str(path))
