from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from bratsml.files import FileTooLargeError, NotAFileError
from bratsml.files.yaml_text import MAX_DEPTH, YAML_LIMIT_BYTES, parse_yaml, read_yaml_file

SHIPPED = sorted((Path(__file__).parents[3] / "experiments").glob("*.yaml"))


def bomb(levels: int) -> str:
    """Nine aliases of nine aliases of ..., about 40 bytes a level."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]")
    return "\n".join(lines)


def merge_bomb(levels: int) -> str:
    lines = ["a0: &a0 {b: 1, c: 2}"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} {{<<: [*a{level - 1}, *a{level - 1}, *a{level - 1}]}}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-3", 1e-3), ("a: -.5", -0.5), ("a: 1.", 1.0), ("a: 1_000", 1000), ("a: -3", -3),
        ("a: on", True), ("a: ~", None), ("a:", None), ("a: 0", 0), ("a: 5e", "5e"),
        ("a: 2026-13-45", "2026-13-45"), ("a: 2026-01-01", "2026-01-01"), ("a: 0b_", "0b_"),
        ("a: 010", "010"), ("a: 1:30", "1:30"), ("a: =", "="), ("a: 0x1F", "0x1F"),
        ("a: " + "9" * 5000, "9" * 5000), ("a: !!str 5", "5"), ("\ufeffa: 1", 1),
        ("a: &x 1\nb: *x", 1),
    ],
)  # fmt: skip
def test_scalars_are_what_they_look_like(text: str, value: object) -> None:
    found = parse_yaml(text)["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2", "names 'a' twice"),
        ("a: {b: 1, 'b': 2}", "names 'b' twice"),
        ("1: x", "'1' as the name"),
        ("? [a]\n: x", "a list or mapping as the name"),
        ("{a: 1}: x", "a list or mapping as the name"),
        ("a: &x [*x]", "repeats what it stands in"),
        ("a: &x {b: *x}", "repeats what it stands in"),
        ("a: *b", "undefined alias"),
        ("<<: 5", "that is no mapping"),
        (bomb(9), "its aliases written out"),
        (merge_bomb(30), "its aliases written out"),
        ("[" * 100_000, f"more than {MAX_DEPTH} levels"),
        ("- " * 50_000, f"more than {MAX_DEPTH} levels"),
        ("a: " + "[" * 100 + "]" * 100, f"more than {MAX_DEPTH} levels"),
        ("a: [" + "1," * 20_000 + "]", "more than 10000 values"),
        ("a: !!int abc", "marked as 'int'"),
        ("a: !!float x", "marked as 'float'"),
        ("a: !!bool maybe", "marked as 'bool'"),
        ("a: !!timestamp x", "marked as 'timestamp'"),
        ("a: !!binary x", "marked as 'binary'"),
        ("a: !!set {x}", "marked as 'set'"),
        ("a: !!python/object/apply:os.system [true]", "marked as 'python/object"),
        ("a: !mine x", "marked as '!mine'"),
        ("a:\tb", "not valid YAML"),
        ("\ta: b", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("a: 'x", "not valid YAML"),
        ("a: 1\n---\nb: 1", "not valid YAML"),
        ("%YAML 9.9\n---\na: 1", "not valid YAML"),
    ],
)
def test_what_settings_do_not_need_is_refused_with_a_reason(text: str, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_yaml(text)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


def test_an_alias_within_reason_is_written_out() -> None:
    assert parse_yaml("a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}")["d"] == {"b": 1, "c": 3}


def test_long_numbers_do_not_take_long() -> None:
    # a pattern that tries every way of cutting 100,000 digits would need hours
    digits = "9" * 100_000
    for text in (digits, digits + "x", digits + ".x", "1_" * 50_000, "0" * 100_000, "-" + digits):
        assert parse_yaml(f"a: {text}")["a"] == text


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_mean_what_they_meant(path: Path) -> None:
    class AsBefore(yaml.SafeLoader):
        """The loader of the first version: SafeLoader that knows 1e-3."""

    import re

    pattern = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    AsBefore.add_implicit_resolver("tag:yaml.org,2002:float", pattern, list("-+0123456789."))
    assert read_yaml_file(path) == yaml.load(path.read_text(encoding="utf-8"), Loader=AsBefore)


def test_only_short_ordinary_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(NotAFileError):
        read_yaml_file(tmp_path / "pipe.yaml")
    (tmp_path / "long.yaml").write_text("#" * (YAML_LIMIT_BYTES + 1))
    with pytest.raises(FileTooLargeError):
        read_yaml_file(tmp_path / "long.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9")
    with pytest.raises(UnicodeDecodeError):
        read_yaml_file(tmp_path / "latin.yaml")
