"""Figures as files that open anywhere, without a network."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PNG_DPI = 100


@dataclass(frozen=True)
class Picture:
    """A matplotlib figure that takes its place among Plotly figures on one page."""

    figure: Any

    def to_html(self, full_html: bool = False, include_plotlyjs: bool = False) -> str:
        """The picture itself, within the page: nothing is fetched. The arguments change nothing."""
        encoded = base64.b64encode(_png(self.figure)).decode()
        return f'<img style="max-width: 100%" src="data:image/png;base64,{encoded}">'


def figure_file(figure: Any) -> tuple[str, bytes]:
    """Suffix and content for a figure.

    A matplotlib figure becomes a PNG. A Plotly figure, or several in a list, become one HTML page
    that carries Plotly's JavaScript (4.8 MB) once: MLflow shows each page alone and cut off from
    its neighbours, so a script shared between files would not be found.

    Raises:
        TypeError: Neither of the two.
    """
    figures = list(figure) if isinstance(figure, Sequence) else [figure]
    if figures and all(hasattr(each, "to_html") for each in figures):
        return ".html", _page(figures).encode()
    if hasattr(figure, "savefig"):
        return ".png", _png(figure)
    raise TypeError(f"{type(figure).__name__} is not a matplotlib or Plotly figure")


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=PNG_DPI, bbox_inches="tight")
    return stream.getvalue()


def _page(figures: list[Any]) -> str:
    parts = [
        each.to_html(full_html=False, include_plotlyjs=number == 0)
        for number, each in enumerate(figures)
    ]
    body = "\n".join(parts)
    head = '<!DOCTYPE html>\n<html><head><meta charset="utf-8"></head>'
    return f"{head}\n<body>\n{body}\n</body></html>"
