"""Names that people gave to cases and files: as they can be printed, and as they can be stored.

A name may hold anything but a slash: line breaks that forge a second message, marks that turn the
direction of writing, colours for the terminal, signs that mean something else in an address.
"""

from __future__ import annotations

import hashlib

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_LONGEST = 150
"""Bytes of a stored name; names of files end at 255, and others put something before or after."""
_DIGEST = 16


def printable(text: str, longest: int = 0) -> str:
    r"""The text on one line, with every character that does not show as itself escaped.

    Args:
        longest: Cut after so many characters; 0 for the whole text.

    Example:
        >>> print(printable("two\nlines, \x1b[31mred, \u202eturned"))
        two\nlines, \x1b[31mred, \u202eturned
        >>> printable("abcdef", longest=4)
        'abc…'
    """
    if longest:
        text = text[: longest + 1]
    shown = "".join(char if char.isprintable() else _escaped(char) for char in text)
    return f"{shown[: longest - 1]}…" if longest and len(shown) > longest else shown


def stored_name(name: str) -> str:
    """The name as that of a file or an address: the same for plain names, else encoded.

    Letters, digits and ``. _ -`` stay; any other character becomes ``~`` and the hexadecimal digits
    of its bytes. Different names give different ones; what gets too long ends in a hash.

    Example:
        >>> stored_name("BraTS-GLI-00000-000"), stored_name("case #1"), stored_name("..")
        ('BraTS-GLI-00000-000', 'case~20~231', '~2e.')
    """
    encoded = "".join(
        char
        if char in _PLAIN and not (place == 0 and char == ".")
        else "".join(f"~{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
        for place, char in enumerate(name)
    )
    if len(encoded) <= _LONGEST:
        return encoded
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST]
    return f"{encoded[: _LONGEST - _DIGEST - 2]}~~{digest}"


def _escaped(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return char.encode("unicode_escape", "surrogatepass").decode()
