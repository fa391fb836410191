from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from bratsml.config import (
    Config,
    build_config,
    differences,
    flatten,
    merge,
    parse_assignments,
    read_yaml,
    split_assignments,
    with_overrides,
)
from bratsml.errors import ConfigError


class Circle(Config):
    kind: Literal["circle"] = "circle"
    radius: float = Field(default=1.0, gt=0)


class Square(Config):
    kind: Literal["square"] = "square"
    side: float = 1.0


class Drawing(Config):
    name: str = "x"
    shape: Annotated[Circle | Square, Field(discriminator="kind")] = Circle()
    layers: int = 3


def test_assignments_keep_numbers_lists_and_text_apart() -> None:
    tree = parse_assignments("optim.lr=3e-4 loader.patch=[96, 96, 96] name=a train.epochs=50")
    assert tree == {
        "optim": {"lr": 3e-4},
        "loader": {"patch": [96, 96, 96]},
        "name": "a",
        "train": {"epochs": 50},
    }


def test_assignments_are_split_at_names_not_inside_lists() -> None:
    assert split_assignments("a=[1, 2] b.c=x  d=") == ["a=[1, 2]", "b.c=x", "d="]


@pytest.mark.parametrize("text", ["lr", "3=4", "a=[1", "lr=1 ; cmd"])
def test_an_override_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"override|setting"):
        build_config(Drawing, parse_assignments(text))


def test_merge_goes_section_by_section_and_starts_afresh_with_another_kind() -> None:
    base = {"shape": {"kind": "circle", "radius": 2.0}, "layers": 1}
    assert merge(base, {"shape": {"radius": 3.0}})["shape"] == {"kind": "circle", "radius": 3.0}
    assert merge(base, {"shape": {"kind": "square"}})["shape"] == {"kind": "square"}
    assert base["shape"] == {"kind": "circle", "radius": 2.0}


def test_unknown_setting_names_the_nearest_valid_one() -> None:
    with pytest.raises(ConfigError, match=r"unknown setting 'shape\.radus'.*'shape\.radius'"):
        build_config(Drawing, {"shape": {"kind": "circle", "radus": 1}})


def test_wrong_type_says_which_setting_and_what_was_received() -> None:
    with pytest.raises(ConfigError, match=r"setting 'layers'.*received 'many'"):
        build_config(Drawing, {"layers": "many"})


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"shape\.radius"):
        with_overrides(Drawing(), {"shape": {"radius": float("nan")}})


def test_overrides_leave_the_original_and_report_differences() -> None:
    old = Drawing()
    new = with_overrides(old, {"shape": {"radius": 2.5}})
    assert old.shape == Circle()
    assert differences(old, new) == ["shape.radius: 1.0 -> 2.5"]


def test_flatten_uses_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == {"a.b": 1, "a.c": {}, "d": [1]}


def test_yaml_reads_exponents_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("lr: 1e-3\nname: 1e\n")
    assert read_yaml(path) == {"lr": 1e-3, "name": "1e"}


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", "\x00\xff"])
def test_a_file_that_holds_no_settings_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        read_yaml(path)
