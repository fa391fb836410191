from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from bratsml.files import printable, stored_name

NAMES = st.text(min_size=1, max_size=80)
PLAIN = st.text(alphabet="abcXYZ019._-", min_size=1, max_size=150).filter(
    lambda name: not name.startswith(".")
)


@given(PLAIN)
def test_a_plain_name_is_stored_as_it_is(name: str) -> None:
    assert stored_name(name) == name


@given(st.text(max_size=80))
def test_a_stored_name_needs_no_encoding_anywhere(name: str) -> None:
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return  # no file can have that name
    stored = stored_name(name)
    assert set(stored) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-~")
    assert len(stored) <= 150
    assert not stored.startswith(".")


def test_different_names_are_stored_differently() -> None:
    names = ["a b", "a~20b", "a~b", "a%20b", "a#b", "a?b", "a/b", "a:b", "a;b", ".a", "~2ea", "..",
             "é", "e\u0301", "\udcff", "ÿ", "=a", "+a", "x" * 200, "x" * 201, " " * 90]  # fmt: skip
    assert len({stored_name(name) for name in names}) == len(names)


def test_what_does_not_show_is_escaped_on_one_line() -> None:
    assert printable("a\tb\nc\x1b[31m") == r"a\tb\nc\x1b[31m"
    assert printable("a\u202egpj.\xa0\u200f\ufeff") == r"a\u202egpj.\xa0\u200f\ufeff"
    assert printable(os.fsdecode(b"caf\xe9")) == r"caf\xe9"
    assert printable("naïve α [red]x[/red] #1") == "naïve α [red]x[/red] #1"


@given(NAMES)
def test_what_is_printable_can_be_printed(name: str) -> None:
    assert printable(name).isprintable()
    printable(name).encode("utf-8")


def test_a_long_text_is_cut() -> None:
    assert printable("x" * 10**6, longest=5) == "xxxx…"
    assert printable("xxxxx", longest=5) == "xxxxx"
