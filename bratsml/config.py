"""Base of every Config, and the one way of changing a configuration: dotted overrides.

A Config is frozen and refuses unknown keys. It sits beside what it builds. YAML files, the command
line, Optuna trials and cluster jobs all change a configuration through :func:`with_overrides`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from bratsml.errors import ConfigError
from bratsml.files import parse_yaml, printable, read_yaml_file

_LONGEST_SHOWN = 80

Tree = dict[str, Any]
"""A configuration as nested dictionaries, lists and scalars, as YAML holds it."""


class Config(BaseModel):
    """A frozen section of an experiment; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    def tree(self) -> Tree:
        """The section as plain data that YAML and JSON can hold."""
        return self.model_dump(mode="json")


ConfigT = TypeVar("ConfigT", bound=Config)


def read_yaml(path: Path) -> Tree:
    """The mapping in a YAML file.

    Raises:
        ConfigError: No such file, not YAML, or not a mapping.
    """
    try:
        tree = read_yaml_file(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError(f"{path} cannot be read ({reason}); check the name") from error
    except ValueError as error:
        raise ConfigError(f"{path} {error}") from error
    if tree is None:
        raise ConfigError(f"{path} is empty; it must hold settings as 'name: value'")
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} must hold settings as 'name: value', found {type(tree).__name__}"
        )
    return tree


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML text, in the order of its definition."""
    return yaml.safe_dump(config.tree(), sort_keys=False, allow_unicode=True)


def parse_assignments(text: str | Iterable[str]) -> Tree:
    """Overrides from ``"optim.lr=3e-4 train.epochs=50"`` as a nested tree.

    Values are YAML scalars or lists (``loader.patch=[96,96,96]``), separated by spaces.

    Raises:
        ConfigError: A piece is not ``name=value`` or its value is not YAML.
    """
    pieces = split_assignments(text) if isinstance(text, str) else list(text)
    tree: Tree = {}
    for piece in pieces:
        name, equals, value = piece.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name):
            raise ConfigError(f"override {as_typed(piece)} is not of the form name=value")
        try:
            parsed = parse_yaml(value)
        except ValueError as error:
            raise ConfigError(f"the value of override {as_typed(piece)} {error}") from error
        _plant(tree, name.split("."), parsed)
    return tree


def split_assignments(text: str) -> list[str]:
    """Split at spaces that start a new ``name=``; spaces inside a list stay."""
    return [piece for piece in re.split(r"\s+(?=[A-Za-z_][\w.]*=)", text.strip()) if piece]


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Tree:
    """``base`` with ``changes`` laid over it, section by section.

    A section whose ``kind`` changes starts afresh: settings of the old kind do not carry over.
    """
    merged: Tree = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            new_kind = value.get("kind", old.get("kind"))
            merged[key] = dict(value) if new_kind != old.get("kind") else merge(old, value)
        else:
            merged[key] = value
    return merged


def build_config(cls: type[ConfigT], tree: Mapping[str, Any], source: str = "") -> ConfigT:
    """Validate a tree into a Config.

    Args:
        source: Named in the message, e.g. the file.

    Raises:
        ConfigError: One sentence naming the first wrong setting, the value received, what is
            allowed and, for an unknown name, the nearest valid one.
    """
    try:
        return cls.model_validate(tree)
    except ValidationError as error:
        message = _explain(cls, error)
        raise ConfigError(f"{source}: {message}" if source else message) from error


def with_overrides(config: ConfigT, changes: Mapping[str, Any]) -> ConfigT:
    """A copy of ``config`` with a nested tree of changes, validated like a file."""
    return build_config(type(config), merge(config.tree(), changes))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names to leaf values: ``{"optim": {"lr": 1}}`` gives ``{"optim.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(old: Config, new: Config) -> list[str]:
    """What changed between two configurations, as ``"optim.lr: 0.001 -> 0.0003"`` lines."""
    before, after = flatten(old.tree()), flatten(new.tree())
    return [
        f"{name}: {before.get(name, '(unset)')} -> {after.get(name, '(unset)')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name, "(unset)") != after.get(name, "(unset)")
    ]


def as_typed(value: Any) -> str:
    """A value as it is typed, cut to what fits into a sentence."""
    try:
        return printable(repr(value), _LONGEST_SHOWN)
    except ValueError:  # Python does not print whole numbers of thousands of digits
        return "a number of thousands of digits"


def _plant(tree: Tree, path: list[str], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"override {'.'.join(path)!r} contradicts an earlier one")
    tree[path[-1]] = value


def _explain(cls: type[Config], error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    kinds = _kinds_in(cls)
    path = [str(part) for part in first["loc"] if str(part) not in kinds]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(name, dotted_names(cls), n=1, cutoff=0.5)
        same_leaf = [n for n in dotted_names(cls) if n.split(".")[-1] == path[-1]]
        hint = (nearest or same_leaf or [""])[0]
        if hint == name:
            return f"unknown setting {name!r} for this kind; another kind has it"
        return f"unknown setting {name!r}" + (f"; did you mean {hint!r}?" if hint else "")
    received = first.get("input")
    shown = "" if isinstance(received, Mapping) else f", received {as_typed(received)}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"setting {name!r}: {reason}{shown}" if name else f"{reason}"


def dotted_names(cls: type[Config], prefix: str = "") -> list[str]:
    """Every setting a Config class can hold, over all variants of its sections."""
    names: list[str] = []
    for name, field in cls.model_fields.items():
        sections = _config_classes(field.annotation)
        if not sections:
            names.append(prefix + name)
        for section in sections:
            names += [n for n in dotted_names(section, f"{prefix}{name}.") if n not in names]
    return names


def _config_classes(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [found for part in get_args(annotation) for found in _config_classes(part)]


def _kinds_in(cls: type[Config]) -> set[str]:
    """Tags that Pydantic puts into error locations of tagged unions."""
    kinds: set[str] = set()
    for field in cls.model_fields.values():
        for section in _config_classes(field.annotation):
            default = section.model_fields["kind"].default if "kind" in section.model_fields else 0
            kinds |= ({default} if isinstance(default, str) else set()) | _kinds_in(section)
    return kinds
