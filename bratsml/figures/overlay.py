"""A case, its reference and its prediction on one slice of the four modalities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

PANES = ("t1n", "t1c", "t2w", "t2f")
COLOURS = {"WT": "#37b24d", "TC": "#f59f00", "ET": "#f03e3e"}
OTHER_COLOURS = ("#1c7ed6", "#ae3ec9", "#0ca678")
WINDOW_PERCENTILES = (1.0, 99.5)
STYLES: tuple[tuple[Literal["solid", "dashed"], str], ...] = (
    ("solid", "reference"),
    ("dashed", "prediction"),
)


def overlay_figure(
    image: npt.NDArray[np.floating],
    reference: npt.NDArray[np.bool_],
    prediction: npt.NDArray[np.bool_],
    regions: Sequence[str],
    title: str,
) -> Figure:
    """Four panes of the axial slice with most tumour: reference solid, prediction dashed.

    The patient's front is up and the patient's right is on the left, as radiologists look at it.

    Args:
        image: Shape ``(4, X, Y, Z)`` in RAS+ axis order, modalities t1n, t1c, t2w, t2f.
        reference: Region masks ``(R, X, Y, Z)`` on the same grid.
        prediction: Same shape as ``reference``.
        regions: Names of the regions.
    """
    z = busiest_slice(reference, prediction)
    figure = Figure(figsize=(13, 4.1), facecolor="black")
    FigureCanvasAgg(figure)
    for number, (name, volume) in enumerate(zip(PANES, image, strict=True)):
        axes = figure.add_axes((0.003 + number * 0.2495, 0.08, 0.245, 0.78))
        darkest, brightest = _grey_window(volume)
        axes.imshow(_upright(volume[:, :, z]), cmap="gray", vmin=darkest, vmax=brightest)
        axes.set_title(name, color="white", fontsize=11, pad=3)
        axes.set_axis_off()
        for index, region in enumerate(regions):
            colour = region_colour(region, index)
            for masks, style in ((reference, "solid"), (prediction, "dashed")):
                mask = _upright(masks[index][:, :, z])
                if mask.any():
                    axes.contour(
                        mask, levels=[0.5], colors=colour, linestyles=style, linewidths=1.3
                    )
    figure.suptitle(f"{title}, slice {z}", color="white", fontsize=12, y=0.985)
    figure.legend(
        handles=_legend(regions),
        loc="lower center",
        ncols=len(regions) + 2,
        fontsize=9,
        frameon=False,
        labelcolor="white",
    )
    return figure


def busiest_slice(reference: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_]) -> int:
    """Axial slice with most tumour in the reference, else in the prediction, else the middle."""
    for masks in (reference, prediction):
        area = masks.any(axis=0).sum(axis=(0, 1))
        if area.any():
            return int(area.argmax())
    return reference.shape[-1] // 2


def region_colour(region: str, index: int) -> str:
    """The same colour for a region in every picture."""
    return COLOURS.get(region, OTHER_COLOURS[index % len(OTHER_COLOURS)])


def _upright(plane: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """A plane ``(X, Y)`` in RAS+ as rows from the front and columns from the patient's right."""
    return np.flip(plane.T, axis=(0, 1))


def _grey_window(volume: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Darkest and brightest value shown: percentiles inside the brain, with the outside black."""
    inside = volume[volume != 0]
    if inside.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(inside, WINDOW_PERCENTILES)
    return min(float(low), 0.0), float(high)


def _legend(regions: Sequence[str]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=region_colour(region, index), label=region)
        for index, region in enumerate(regions)
    ]
    handles += [
        Line2D([], [], color="white", linestyle=style, label=label) for style, label in STYLES
    ]
    return handles
