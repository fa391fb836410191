"""Keeping folders and user names out of what a run records: paths can carry patient names."""

from __future__ import annotations

import re
from pathlib import Path

OUTSIDE = "(path outside the project)"
"""What stands where a path led out of the project folder."""

# A path token: absolute, below the home folder, a drive, a file URI, or climbing with '..'
_PATH = re.compile(
    r"""(?<![\w./\\:<#-])               # not in the middle of a word, URL, tag or relative path
        (?:file:(?://)?)?
        (?:~[\w.-]*/|/(?=[\w.])|[A-Za-z]:[\\/]|\\\\|(?:[\w.-]+/)*\.\.(?=[/\s'",;)\]}]|$))
        [^\s'",;)\]}]*
        (?:[ ][^\s'",;)\]}]*/[^\s'",;)\]}]*)*   # further parts of a path with spaces in it
        """,
    re.VERBOSE,
)


def scrub_paths(text: str, root: Path) -> str:
    """``text`` with every path made relative to ``root``, or replaced when it leads outside.

    Relative paths inside the project, URLs of other schemes and plain words stay as they are. The
    last part of a path with spaces is only recognised when the path is the whole text.
    """
    if _PATH.match(text) and not re.search(r"[\n=;]|: ", text):
        return _shown(text, root)
    return _PATH.sub(lambda match: _shown(match.group(), root), text)


def _shown(token: str, root: Path) -> str:
    if token.startswith("~") or "\\" in token:
        return OUTSIDE
    path = root / token.removeprefix("file://").removeprefix("file:")  # an absolute one stays
    try:
        # normpath would not see through links; resolve does, and needs no existing file
        return path.resolve().relative_to(root.resolve()).as_posix()
    except (ValueError, OSError, RuntimeError):
        return OUTSIDE
