"""Who may import whom: nothing points back up the house, and there are no circles."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "bratsml"

# Each room may import the rooms of lower levels; rooms of one level do not know each other.
LEVEL = {
    "errors": 0,
    "files": 1,
    "config": 2,
    "labels": 2,
    "geometry": 2,
    "data": 3,
    "models": 3,
    "losses": 3,
    "metrics": 3,
    "figures": 3,
    "inference": 4,
    "compute": 5,
    "training": 6,
    "evaluation": 6,
    "ensembling": 6,
    "experiment": 7,
    "tracking": 8,
    "tuning": 8,
    "workflows": 9,
    "cli_options": 10,
    "cli_weights": 11,
    "cli": 12,
}
ANY_LEVEL = {"bratsml.tracking.tracker"}  # a protocol without heavy imports
ONE_DOOR = {"mlflow": "tracking", "optuna": "tuning"}


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name != "__init__.py")


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def imported_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_a_room_imports_only_what_lies_below_it(path: Path) -> None:
    here = room(dotted(path))
    assert here in LEVEL, f"give {here} its level in this test and in the architecture"
    for name in imported_names(path):
        there = room(name) if name.startswith("bratsml.") else ""
        if not there or there == here or name in ANY_LEVEL:
            continue
        assert LEVEL[there] < LEVEL[here], f"{dotted(path)} must not import {name}"


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_mlflow_and_optuna_have_one_door_each(path: Path) -> None:
    for name in imported_names(path):
        door = ONE_DOOR.get(name.split(".")[0])
        assert door is None or room(dotted(path)) == door, f"{dotted(path)} imports {name}"


def test_modules_import_each_other_without_circles() -> None:
    known = {dotted(path): path for path in modules()}
    graph = {name: {i for i in imported_names(path) if i in known} for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join((*trail, name))}"
        if name in done:
            return
        for imported in graph[name]:
            visit(imported, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())
