"""YAML read as plain settings, in a time that its length bounds.

YAML can do more than settings need, and each of the extras has a way to go wrong: aliases of
aliases expand 400 bytes to gigabytes, ``2026-13-45`` is a date that does not exist, ``0b_`` a
number without digits, ``1:30`` a number to the base 60 and ``010`` an eight. So there are texts,
decimal numbers, ``true``, ``false`` and ``null`` here, lists and mappings with names for keys, and
of everything a reasonable amount.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from bratsml.files.names import printable
from bratsml.files.reading import read_text

YAML_LIMIT_BYTES = 128 << 10
"""The longest file of settings that ships with the package has 3 kB."""
MAX_DEPTH = 40
MAX_VALUES = 10_000
"""Values of a file, those that aliases repeat counted each time."""
_SHOWN = 60
_PROBLEM_SHOWN = 300

_NOT_LONG = r"(?=.{1,60}$)"  # patterns of nothing but digits take long over long ones
_DIGITS = r"(0|[1-9](_?[0-9]){0,17})"
_RESOLVERS = (
    ("bool", r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)",
     "yYnNtTfFoO"),
    ("int", rf"[-+]?{_DIGITS}", "-+0123456789"),
    ("float", _NOT_LONG + r"[-+]?(\d+(_\d+)*\.?\d*|\.\d+)[eE][-+]?\d+|[-+]?(\d+(_\d+)*\.\d*|\.\d+)"
     r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+0123456789."),
    ("merge", "<<", "<"),
    ("null", "~|null|Null|NULL|", "~nN\0"),
)  # fmt: skip
"""Tag, how its values are written, and what they begin with."""
_PREFIX = "tag:yaml.org,2002:"
_TAGS = {_PREFIX + name for name in ("bool", "int", "float", "merge", "null", "str", "seq", "map")}


class _Loader(yaml.SafeLoader):
    """Reads plain settings; ``1e-3`` is a number (YAML 1.1 takes it for text)."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - filled below
    depth = 0
    num_nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """As the base class, within the limits: nothing behind them is even looked at."""
        self.depth += 1
        self.num_nodes += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"is nested more than {MAX_DEPTH} levels deep")
        if self.num_nodes > MAX_VALUES:
            raise ValueError(f"holds more than {MAX_VALUES} values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_PREFIX + _name, re.compile(f"^({_pattern})$"), list(_first))
_Loader.yaml_implicit_resolvers[""] = _Loader.yaml_implicit_resolvers.pop("\0")


def parse_yaml(text: str) -> Any:
    """The value in YAML text: nested dictionaries with names for keys, lists and scalars.

    Raises:
        ValueError: Not YAML, or more than settings need; says what in half a sentence.

    Example:
        >>> parse_yaml("optim: {lr: 1e-3}")
        {'optim': {'lr': 0.001}}
        >>> parse_yaml("day: 2026-13-45")
        {'day': '2026-13-45'}
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _Check().size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        problem = printable(" ".join(str(error).split()), _PROBLEM_SHOWN)
        raise ValueError(f"is not valid YAML: {problem}") from None
    except RecursionError:
        raise ValueError(f"is nested more than {MAX_DEPTH} levels deep") from None


def read_yaml_file(path: Path) -> Any:
    """:func:`parse_yaml` of a file of at most :data:`YAML_LIMIT_BYTES`.

    Raises:
        ValueError: As there, or not UTF-8.
        OSError: As :func:`bratsml.files.read_text`.
    """
    return parse_yaml(read_text(path, YAML_LIMIT_BYTES))


class _Check:
    """Looks over a document before any value of it is made."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.open: set[int] = set()

    def size(self, node: Any) -> int:
        """How many values a node stands for, aliases followed.

        Raises:
            ValueError: Too many, one within itself, a key given twice or that is no name.
        """
        key = id(node)
        if key in self.sizes:
            return self.sizes[key]
        if key in self.open:
            raise ValueError("holds an alias that repeats what it stands in")
        if node.tag not in _TAGS or (node.tag.startswith(_PREFIX) and _misfits(node)):
            shown = printable(node.tag.removeprefix(_PREFIX), _SHOWN)
            raise ValueError(f"holds a value marked as '{shown}', which settings do not have")
        self.open.add(key)
        total = 1
        if isinstance(node, yaml.MappingNode):
            _require_names(node)
            total += sum(1 + self.size(value) for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            total += sum(map(self.size, node.value))
        if total > MAX_VALUES:
            raise ValueError(f"holds more than {MAX_VALUES} values, its aliases written out")
        self.open.discard(key)
        self.sizes[key] = total
        return total


def _misfits(node: Any) -> bool:
    """Whether a tag was put before a value of another kind, as in ``!!int x``."""
    kind = node.tag.removeprefix(_PREFIX)
    if isinstance(node, yaml.MappingNode):
        return bool(kind != "map")
    if isinstance(node, yaml.SequenceNode):
        return bool(kind != "seq")
    if kind == "str":
        return False
    patterns = {name: pattern for name, pattern, _ in _RESOLVERS}
    return kind not in patterns or not re.fullmatch(patterns[kind], node.value)


def _require_names(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else None
        if name is None or key.tag not in (f"{_PREFIX}str", f"{_PREFIX}merge"):
            shown = f"'{printable(name, _SHOWN)}'" if name is not None else "a list or mapping"
            raise ValueError(f"has {shown} as the name of a setting; put quotes around names")
        if name in seen:
            raise ValueError(f"names '{printable(name, _SHOWN)}' twice; keep one of them")
        seen.add(name)
        if key.tag == f"{_PREFIX}merge" and not _is_mergeable(value):
            raise ValueError("merges something with '<<' that is no mapping")


def _is_mergeable(node: Any) -> bool:
    if isinstance(node, yaml.SequenceNode):
        return all(isinstance(item, yaml.MappingNode) for item in node.value)
    return isinstance(node, yaml.MappingNode)
