"""Names and values as MLflow takes them."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Mapping

from bratsml.errors import ConfigError

LONGEST_NAME = 250
LONGEST_VALUE = 500
"""Longer parameter values are hard to read on MLflow's page (and are cut silently after 6000
characters), so they become artifacts."""
LONGEST_TAG = 8000
_ALLOWED = re.compile(r"[\w.\- :/]*", re.ASCII)


def metric_name(name: str) -> str:
    """The name itself when MLflow takes it, else one it takes: other characters become ``_``."""
    name = re.sub(r"[^\w.\- :/]", "_", name, flags=re.ASCII)
    parts = posixpath.normpath(name).lstrip("/").split("/")
    name = "/".join("_" if part in ("", ".", "..") else part for part in parts)
    return name[:LONGEST_NAME].rstrip("/")


def check_param_names(names: Mapping[str, object]) -> None:
    """Refuse settings whose names MLflow cannot hold.

    Raises:
        ConfigError: Naming the first such setting.
    """
    for name in names:
        if len(name) > LONGEST_NAME or not _ALLOWED.fullmatch(name) or metric_name(name) != name:
            raise ConfigError(
                f"setting {name[:80]!r} cannot be recorded: use letters, digits and _ - . : / "
                f"only, at most {LONGEST_NAME} characters"
            )


def param_text(value: object) -> str:
    """A setting as text: JSON for lists and mappings, ``str`` for the rest."""
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(value, default=str)
    return str(value)


def digest_of(text: str) -> str:
    """Twelve characters that change with the text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def tag_text(value: str) -> str:
    """The value, cut where MLflow would refuse it."""
    return value if len(value) <= LONGEST_TAG else value[: LONGEST_TAG - 3] + "..."
