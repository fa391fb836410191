"""conda.yaml, pyproject.toml and MLproject name the same things."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import typer
import yaml

from bratsml.cli import app
from bratsml.tracking.store import PROJECT_NAME, is_project

ROOT = Path(__file__).parents[2]


def project() -> dict[str, Any]:
    content: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return content


def conda() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "conda.yaml").read_text())
    return content


def test_conda_installs_what_pyproject_asks_for() -> None:
    (pip,) = [entry["pip"] for entry in conda()["dependencies"] if isinstance(entry, dict)]
    assert pip == project()["dependencies"]


def test_conda_has_the_oldest_python_that_pyproject_allows() -> None:
    (python,) = [entry for entry in conda()["dependencies"] if str(entry).startswith("python=")]
    assert f">={python.removeprefix('python=')}" == project()["requires-python"]


def test_what_the_code_leans_on_is_pinned() -> None:
    # the plugin reaches into MLflow; the others decide numbers
    pinned = {line.split("==")[0] for line in project()["dependencies"] if "==" in line}
    assert {"mlflow", "torch", "monai", "numpy", "lightning-fabric"} <= pinned


def test_the_project_is_known_by_its_name() -> None:
    assert is_project(ROOT)
    assert project()["name"] == PROJECT_NAME
    assert yaml.safe_load((ROOT / "MLproject").read_text())["conda_env"] == "conda.yaml"


def test_the_plugin_is_announced() -> None:
    group = project()["entry-points"]["mlflow.default_experiment_provider"]
    module, _, name = group["bratsml"].partition(":")
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert re.search(rf"^class {name}:", source, re.MULTILINE)


def test_every_parameter_of_an_entry_point_is_passed_on_as_an_option_of_that_name() -> None:
    for name, entry in yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"].items():
        options = "".join(f" --{parameter} {{{parameter}}}" for parameter in entry["parameters"])
        assert entry["command"] == f"python -m bratsml.cli {name}{options}"
        # text with "" for "not given": MLflow checks neither numbers nor the rest
        for parameter in entry["parameters"].values():
            assert parameter == {"type": "string", "default": ""}


def test_every_entry_point_is_a_command_with_these_options() -> None:
    commands = typer.main.get_group(app).commands
    for name, entry in yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"].items():
        options = {option for param in commands[name].params for option in param.opts}
        assert {f"--{parameter}" for parameter in entry["parameters"]} <= options
