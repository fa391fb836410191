"""Arguments typed as text, turned into values."""

from __future__ import annotations

from bratsml.errors import ConfigError


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
