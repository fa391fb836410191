"""Figures as pages that need no network."""

from __future__ import annotations

import base64
import re

import plotly.graph_objects as go
import pytest
from matplotlib.figure import Figure

from bratsml.tracking.render import Picture, figure_file


def test_one_page_carries_the_script_once_and_pictures_within_it():
    plotly, drawn = go.Figure(go.Scatter(x=[1], y=[2])), Figure(figsize=(1, 1))
    suffix, content = figure_file([plotly, Picture(drawn), plotly])
    page = content.decode()
    assert suffix == ".html"
    (encoded,) = re.findall(r'<img [^>]*src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(encoded).startswith(b"\x89PNG")
    # the script is some 4.8 MB: once, not twice
    assert 3e6 < len(content) < 8e6
    assert not re.search(r'<(img|script|link) [^>]*(src|href)="http', page)


def test_what_is_no_figure_is_refused():
    with pytest.raises(TypeError, match="str is not"):
        figure_file("text")
