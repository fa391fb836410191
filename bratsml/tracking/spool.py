"""Entries that the tracking store could not take, kept on disk in order until it can.

A spool is a folder with one JSON-lines file and copies of the files to deliver. Delivering an entry
twice does no harm (see ``delivery``), so an entry is removed only after it has arrived.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from bratsml.files import parse_json, read_bytes, write_bytes

Entry = dict[str, Any]
"""One thing to record, as JSON; ``kind`` says what."""

ENTRIES_FILE = "entries.jsonl"
FILES_FOLDER = "files"
_LONGEST_BYTES = 1 << 30


class Spool:
    """A queue of entries that survives the process.

    One process at a time may use a folder; a last line torn by a crash is dropped.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / ENTRIES_FILE
        self._entries: list[Entry] = _read(self._file)
        numbers = [int(kept.name) for kept in (folder / FILES_FOLDER).glob("[0-9]*")]
        self._num_files = max(numbers, default=0)
        if self._entries:
            self._rewrite()

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, entry: Entry) -> None:
        """Add an entry at the end; it is on disk when this returns.

        Raises:
            OSError: The disk is full or the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab") as stream:
            stream.write(json.dumps(entry).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._entries.append(entry)

    def keep_file(self, path: Path) -> str:
        """Keep a file's (or folder's) present content; returns its path within the spool.

        A hard link where possible: our files are replaced by renaming, never written in place.
        """
        number = self._num_files = self._num_files + 1
        kept = self.folder / FILES_FOLDER / f"{number}" / path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, kept, copy_function=_link_or_copy)
        else:
            _link_or_copy(str(path), str(kept))
        return kept.relative_to(self.folder).as_posix()

    def first(self) -> Entry:
        """The oldest entry.

        Raises:
            IndexError: The spool is empty.
        """
        return self._entries[0]

    def remove_first(self) -> None:
        """Drop the oldest entry, and the whole folder with the last one."""
        entry = self._entries.pop(0)
        if not self._entries:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._num_files = 0
            return
        self._rewrite()
        if kept := entry.get("kept"):
            shutil.rmtree((self.folder / kept).parent, ignore_errors=True)

    def _rewrite(self) -> None:
        lines = [json.dumps(entry).encode() + b"\n" for entry in self._entries]
        write_bytes(self._file, b"".join(lines))


def _read(path: Path) -> list[Entry]:
    try:
        lines = read_bytes(path, _LONGEST_BYTES).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    entries: list[Entry] = []
    for line in lines:
        try:
            entry = parse_json(line.decode())
        except ValueError:
            entry = None
        if isinstance(entry, dict) and "kind" in entry and line.endswith(b"\n"):
            entries.append(entry)
    return entries


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
