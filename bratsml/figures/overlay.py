"""A case, its reference and its prediction on one slice of the four modalities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bratsml.geometry import Spacing

PANES = ("t1n", "t1c", "t2w", "t2f")
COLOURS = {
    "WT": "#37b24d",
    "TC": "#f59f00",
    "ET": "#f03e3e",
    "NETC": "#1c7ed6",
    "SNFH": "#3bc9db",
    "ED": "#3bc9db",  # the older name of SNFH
    "RC": "#ae3ec9",
    "CC": "#fcc2d7",
    "GTV": "#f03e3e",  # stands alone in its scheme
}
OTHER_COLOURS = ("#a9e34b", "#e9ecef", "#b197fc", "#ffa8a8")
WINDOW_PERCENTILES = (1.0, 99.5)
MARGIN_VOXELS = 3
FILL_OPACITY = 0.3
INNER_LINE_WIDTH, LINE_WIDTH_STEP = 1.0, 0.8

Stack = npt.NDArray[np.bool_]
"""Region masks of shape ``(R, X, Y, Z)``."""
Plane = npt.NDArray[np.generic]


def overlay_figure(
    image: npt.NDArray[np.floating],
    reference: Stack,
    prediction: Stack,
    regions: Sequence[str],
    title: str,
    dice: Mapping[str, float] | None = None,
    spacing_mm: Spacing = (1.0, 1.0, 1.0),
) -> Figure:
    """Four panes of the axial slice with most tumour: reference as lines, prediction as filling.

    The patient's front is up and the patient's right is on the left, as radiologists look at it.
    The panes show the part of the slice that holds the brain. Without any tumour it is the middle
    slice.

    Args:
        image: Shape ``(4, X, Y, Z)`` in RAS+ axis order, modalities t1n, t1c, t2w, t2f; 0 outside
            the brain.
        reference: Region masks ``(R, X, Y, Z)`` on the same grid.
        prediction: Same shape as ``reference``.
        regions: Names of the regions.
        dice: Dice of the case by region, added to the title; NaN is shown as a dash.
        spacing_mm: Voxel size along ``X``, ``Y``, ``Z`` of ``image``, for true proportions.
    """
    aspect = spacing_mm[1] / spacing_mm[0]
    z = busiest_slice(reference, prediction)
    shown = _brain_part(image[..., z])
    order = _outermost_first(reference, prediction)
    figure = Figure(figsize=(13, 4.3), facecolor="black")
    FigureCanvasAgg(figure)
    for number, (name, volume) in enumerate(zip(PANES, image, strict=True)):
        axes = figure.add_axes((0.003 + number * 0.2495, 0.08, 0.245, 0.78))
        axes.set_title(name, color="white", fontsize=11, pad=3)
        axes.set_axis_off()
        darkest, brightest = _grey_window(volume)
        plane = _upright(volume[..., z][shown])
        axes.imshow(plane, cmap="gray", vmin=darkest, vmax=brightest, aspect=aspect)
        colours = [region_colour(regions[index], index) for index in order]
        _fill(
            axes, [_upright(prediction[index, ..., z][shown]) for index in order], colours, aspect
        )
        for rank, index in enumerate(reversed(order)):
            # where two outlines coincide the outer one shows on both sides of the inner
            width = INNER_LINE_WIDTH + LINE_WIDTH_STEP * rank
            line = _upright(reference[index, ..., z][shown])
            _outline(axes, line, region_colour(regions[index], index), width, rank)
    heading = "   ".join(part for part in (title, _dice_text(dice), f"slice {z}") if part)
    # a case called $x$ is no formula
    figure.suptitle(heading, color="white", fontsize=12, y=0.985, parse_math=False)
    _add_legend(figure, regions)
    return figure


def busiest_slice(reference: Stack, prediction: Stack) -> int:
    """Axial slice with most tumour in the reference, else in the prediction, else the middle."""
    for masks in (reference, prediction):
        area = masks.any(axis=0).sum(axis=(0, 1))
        if area.any():
            return int(area.argmax())
    return reference.shape[-1] // 2


def region_colour(region: str, index: int) -> str:
    """The same colour for a region in every picture.

    Args:
        index: Place of the region, which chooses the colour of names without one of their own.
    """
    return COLOURS.get(region, OTHER_COLOURS[index % len(OTHER_COLOURS)])


def _outermost_first(reference: Stack, prediction: Stack) -> list[int]:
    """Regions by falling volume, so that an inner region is painted over the one around it."""
    volume = (reference | prediction).sum(axis=(1, 2, 3))
    return [int(index) for index in np.argsort(-volume, kind="stable")]


def _fill(axes: Axes, masks: Sequence[Plane], colours: Sequence[str], aspect: float) -> None:
    """Tint the voxels of each mask; a later one replaces the colour of an earlier."""
    tint = np.zeros((*masks[0].shape, 4))
    for mask, colour in zip(masks, colours, strict=True):
        tint[mask.astype(bool)] = (*to_rgb(colour), FILL_OPACITY)
    axes.imshow(tint, interpolation="nearest", aspect=aspect)


def _outline(axes: Axes, mask: Plane, colour: str, width: float, rank: int) -> None:
    """Draw the border of a mask; lower ranks lie on top."""
    if not mask.any():
        return
    rows, columns = mask.shape
    axes.contour(
        np.arange(-1, columns + 1),
        np.arange(-1, rows + 1),
        np.pad(mask.astype(float), 1),  # closes lines at the border of the slice
        levels=[0.5],
        colors=colour,
        linewidths=width,
        zorder=10 - rank,
    )
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)


def _upright(plane: Plane) -> Plane:
    """A plane ``(X, Y)`` in RAS+ as rows from the front and columns from the patient's right."""
    return np.flip(plane.T, axis=(0, 1))


def _brain_part(planes: Plane) -> tuple[slice, slice]:
    """Columns and rows ``(X, Y)`` that are not 0 in some modality, with a margin; else all."""
    inside = (planes != 0).any(axis=0)
    parts = []
    for axis in (0, 1):
        hits = np.flatnonzero(inside.any(axis=1 - axis))
        start = max(int(hits[0]) - MARGIN_VOXELS, 0) if hits.size else 0
        stop = int(hits[-1]) + 1 + MARGIN_VOXELS if hits.size else inside.shape[axis]
        parts.append(slice(start, stop))
    return parts[0], parts[1]


def _grey_window(volume: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Darkest and brightest value shown: percentiles inside the brain, with the outside black."""
    inside = volume[volume != 0]
    if inside.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(inside, WINDOW_PERCENTILES)
    return min(float(low), 0.0), float(high)


def _dice_text(dice: Mapping[str, float] | None) -> str:
    if not dice:
        return ""
    values = (f"{name} {'–' if math.isnan(d) else f'{d:.3f}'}" for name, d in dice.items())
    return f"Dice {', '.join(values)}"


def _add_legend(figure: Figure, regions: Sequence[str]) -> None:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=region_colour(region, index), linewidth=3, label=region)
        for index, region in enumerate(regions)
    ]
    handles.append(Line2D([], [], color="white", label="line: reference"))
    handles.append(Patch(facecolor="white", alpha=FILL_OPACITY, label="filling: prediction"))
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=len(handles),
        fontsize=9,
        frameon=False,
        labelcolor="white",
    )
