"""Figures as files that open anywhere, without a network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

PNG_DPI = 100


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
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=PNG_DPI, bbox_inches="tight")
        return ".png", stream.getvalue()
    raise TypeError(f"{type(figure).__name__} is not a matplotlib or Plotly figure")


def _page(figures: list[Any]) -> str:
    parts = [
        each.to_html(full_html=False, include_plotlyjs=number == 0)
        for number, each in enumerate(figures)
    ]
    body = "\n".join(parts)
    head = '<!DOCTYPE html>\n<html><head><meta charset="utf-8"></head>'
    return f"{head}\n<body>\n{body}\n</body></html>"
