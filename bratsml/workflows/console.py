"""What the user sees in the terminal: one shared rich console, and plain lines."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from bratsml.files import printable


class PlainConsole(Console):
    """Prints text as it is: names of cases and files come from whoever made the data.

    So ``[red]`` is no colour, ``:x:`` no picture, and what would move the cursor, change colours or
    turn the direction of writing is shown escaped. Only line breaks do what they say.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Text as it is printed on its own or in the cell of a table."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)


console = PlainConsole()


def say(message: str) -> None:
    """Print one line of information."""
    console.print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print one line that the user should not overlook."""
    console.print(f"warning: {message}", style="yellow", markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """A span of time a person can read: ``45 s``, ``12 min``, ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def size(num_bytes: float) -> str:
    """An amount of memory or disk: ``850 MB``, ``3.2 GB``."""
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.1f} GB"
