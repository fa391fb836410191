"""Arguments typed as text, turned into values."""

from __future__ import annotations

import re

from bratsml.errors import ConfigError

UNIT_BYTES = {
    letter + binary: (1024 if binary else 1000) ** power
    for power, letter in enumerate("kmgt", start=1)
    for binary in ("", "i")
}
MOST_GIGABYTES = 1e6


def whole_number(name: str, text: str, minimum: int = 1) -> int:
    """A count typed as text.

    Raises:
        ConfigError: Not a whole number, or below the minimum.
    """
    try:
        value = int(text)
    except ValueError:
        value = minimum - 1
    if value < minimum:
        raise ConfigError(f"{name} must be a whole number of at least {minimum}, received {text!r}")
    return value


def gigabytes(name: str, text: str) -> float:
    """An amount of memory typed as text, in GB (1e9 bytes): ``8``, ``8GB``, ``8000MB``, ``7.5GiB``.

    Raises:
        ConfigError: Not such an amount, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b?)?", text.strip().lower())
    unit = (found[2] or "g").removesuffix("b") if found else ""
    value = float(found[1]) * UNIT_BYTES[unit] / 1e9 if found else 0.0
    if not 0 < value < MOST_GIGABYTES:
        raise ConfigError(
            f"{name} must be an amount of memory such as 8GB, 7.5GiB or 8000MB, received {text!r}"
        )
    return value
