"""MLproject, the command line, the README and the files say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main
import yaml

from bratsml.cli import app

PROJECT = Path(__file__).parents[2]
ENTRY_POINTS = yaml.safe_load((PROJECT / "MLproject").read_text())["entry_points"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def options(command: str) -> set[str]:
    return {
        name.removeprefix("--") for parameter in COMMANDS[command].params for name in parameter.opts
    }


def test_every_command_is_an_entry_point() -> None:
    assert set(COMMANDS) == {*ENTRY_POINTS, "phantom"}  # phantoms come by themselves
    assert {"train", "cv", "ensemble", "predict", "compare"} <= set(ENTRY_POINTS)


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_parameter_of_mlproject_is_an_option_and_is_passed(name: str) -> None:
    entry = ENTRY_POINTS[name]
    passed = dict(re.findall(r"--(\S+) \{(\w+)\}", entry["command"]))
    assert set(passed) == set(entry["parameters"])
    assert all(option == parameter for option, parameter in passed.items())
    assert set(entry["parameters"]) <= options(name)
    assert f"-m bratsml.cli {name} " in entry["command"]


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_parameter_can_be_left_out(name: str) -> None:
    for parameter in ENTRY_POINTS[name]["parameters"].values():
        assert parameter == {"type": "string", "default": ""}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_the_readme_names_every_parameter(name: str) -> None:
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
    for parameter in ENTRY_POINTS[name]["parameters"]:
        assert f"`{parameter}`" in row, parameter


def test_the_readme_names_every_folder_and_experiment() -> None:
    tree = README.split("## The tree")[1]
    rooms = [p.name for p in (PROJECT / "bratsml").iterdir() if (p / "__init__.py").is_file()]
    tops = ["experiments", "benchmarks", "docs", "mlruns", "tests", "bratsml"]
    for name in (*rooms, *tops):
        assert f"{name}/" in tree, name
    for path in (PROJECT / "experiments").glob("*.yaml"):
        stem = path.stem.removesuffix("_as_published")
        assert stem == "phantom_profile" or f"`{stem}`" in README, path.name


def test_what_the_readme_tells_to_read_first_is_there() -> None:
    line = next(line for line in README.splitlines() if line.startswith("Read these five"))
    paths = re.findall(r"`(\S+\.py)`", line)
    assert len(paths) == 5
    assert all((PROJECT / path).is_file() for path in paths)
