"""Pictures of what methods answer to queries: dots with intervals, lines over ranks, and maps by query."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from verisal.errors import DataError
from verisal.results import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["answer_maps_pixels", "dots_pixels", "rank_lines_pixels", "tradeoff_pixels"]

_DPI = 100
_WIDTH = 8.6
# Colours that colour-blind readers tell apart (Okabe and Ito), with a marker each for print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#8C510A")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_SHADES = 24


def dots_pixels(
    rows: Mapping[str, Mapping[str, Score]],
    *,
    title: str,
    label: str,
    line: float | None = None,
    high: float = math.inf,
) -> NDArray[np.uint8]:
    """One line per row with a dot and an interval per column, as ``(H, W, 3)`` uint8 pixels.

    Args:
        rows: name of the row to column to score, the same columns in all; undefined scores are left out.
        title: what is shown and which end is good.
        label: of the axis.
        line: a value to mark, or None.
        high: values beyond are drawn at it, as open dots.

    Raises:
        DataError: no rows.
    """
    if not rows:
        raise DataError("a figure of scores needs at least one row, found none")
    columns = list(next(iter(rows.values())))
    figure = _figure(_WIDTH, 1.3 + 0.34 * len(rows))
    axes = figure.subplots()
    step = 0.6 / max(len(columns), 1)
    for number, column in enumerate(columns):
        for place, scores in enumerate(rows.values()):
            score = scores[column]
            if score.value != score.value:
                continue
            height = place + (number - (len(columns) - 1) / 2) * step
            colour = _COLOURS[number % len(_COLOURS)]
            if score.ends is not None:
                ends = [min(score.low, high), min(score.high, high)]
                axes.plot(ends, [height, height], color=colour, linewidth=1.5)
            axes.plot(
                [min(score.value, high)],
                [height],
                color=colour,
                marker=_MARKERS[number % len(_MARKERS)],
                markerfacecolor="white" if score.value > high else colour,
                markersize=5,
                linestyle="",
            )
        axes.plot([], [], color=_COLOURS[number], marker=_MARKERS[number], linestyle="", label=column)
    if line is not None:
        axes.axvline(line, color="0.5", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(rows)), labels=list(rows), fontsize=10)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for place in range(len(rows) - 1):
        axes.axhline(place + 0.5, color="0.92", linewidth=0.8, zorder=0)
    axes.set_xlabel(label, fontsize=10)
    axes.tick_params(axis="x", labelsize=9)
    axes.spines[["right", "top"]].set_visible(False)
    figure.suptitle(title, fontsize=12)
    figure.legend(loc="outside lower center", ncols=len(columns), fontsize=10, frameon=False)
    return _pixels(figure)


def rank_lines_pixels(
    lines: Mapping[str, Mapping[str, Score]], *, title: str, label: str, floor: float = 1e-4
) -> NDArray[np.uint8]:
    """One line per row over ranks, on a logarithmic axis, as ``(H, W, 3)`` uint8 pixels.

    Args:
        lines: name of the line to rank, in words, to score; values below ``floor`` are drawn at it.
        title: what is shown and how to read it.
        label: of the vertical axis.
        floor: lower end of the axis.

    Raises:
        DataError: no lines.
    """
    if not lines:
        raise DataError("a figure of ranks needs at least one line, found none")
    figure = _figure(_WIDTH, 4.6)
    axes = figure.subplots()
    ranks = list(next(iter(lines.values())))
    for number, (name, scores) in enumerate(lines.items()):
        values = [max(scores[rank].value, floor) for rank in ranks]
        axes.plot(
            range(len(ranks)),
            values,
            color=_COLOURS[number % len(_COLOURS)],
            marker=_MARKERS[number % len(_MARKERS)],
            linestyle=("-", "--")[number // len(_COLOURS) % 2],
            markersize=5,
            label=name,
        )
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor * 0.8)
    axes.set_xticks(range(len(ranks)), labels=ranks, fontsize=10)
    axes.set_ylabel(label, fontsize=10)
    axes.tick_params(axis="y", labelsize=9)
    axes.grid(visible=True, axis="y", color="0.92")
    axes.spines[["right", "top"]].set_visible(False)
    figure.suptitle(title, fontsize=12)
    figure.legend(loc="outside right center", fontsize=9, frameon=False)
    return _pixels(figure)


def tradeoff_pixels(
    points: Mapping[str, tuple[Score, Score]], *, title: str, labels: tuple[str, str]
) -> NDArray[np.uint8]:
    """Two scores of each row against each other, with intervals, as ``(H, W, 3)`` uint8 pixels.

    Args:
        points: name to the scores on the horizontal and the vertical axis.
        title: what is shown and which corner is good.
        labels: of the axes.

    Raises:
        DataError: no points.
    """
    if not points:
        raise DataError("a figure of two scores needs at least one point, found none")
    figure = _figure(_WIDTH, 4.6)
    axes = figure.subplots()
    for number, (name, (x, y)) in enumerate(points.items()):
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        for score, across in ((x, True), (y, False)):
            if score.ends is not None:
                ends, fixed = [score.low, score.high], [(y if across else x).value] * 2
                axes.plot(*((ends, fixed) if across else (fixed, ends)), color=colour, linewidth=1.2)
        hollow = "white" if number >= len(_COLOURS) else colour
        axes.plot(
            [x.value], [y.value], color=colour, marker=marker, markerfacecolor=hollow, markersize=7,
            linestyle="", label=name,
        )  # fmt: skip
    axes.set_xlabel(labels[0], fontsize=10)
    axes.set_ylabel(labels[1], fontsize=10)
    axes.tick_params(labelsize=9)
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["right", "top"]].set_visible(False)
    figure.suptitle(title, fontsize=12)
    figure.legend(loc="outside right center", fontsize=9, frameon=False)
    return _pixels(figure)


def answer_maps_pixels(
    image: Tensor, rows: Mapping[str, Mapping[str, Tensor]], *, title: str
) -> NDArray[np.uint8]:
    """Maps of one image by query, each row on one scale from 0 to the maximum of its first map.

    Args:
        image: ``(3, H, W)`` in [0, 1].
        rows: name of the row to query to ``(H, W)`` map, the same queries in all.
        title: what is shown.

    Raises:
        DataError: no rows.
    """
    if not rows:
        raise DataError("a figure of maps needs at least one row, found none")
    queries = list(next(iter(rows.values())))
    cell, left, top = 0.94, 1.75, 0.62
    width, height = left + cell * (len(queries) + 1), top + cell * len(rows) + 0.05
    figure = _figure(width, height, layout=None)
    picture = image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    for line, (name, maps) in enumerate(rows.items()):
        first = float(next(iter(maps.values())).max())
        cells = [picture, *(maps[query].detach().cpu().double().numpy() for query in queries)]
        for column, values in enumerate(cells):
            axes = figure.add_axes(
                (
                    (left + column * cell) / width,
                    1 - (top + (line + 1) * cell - 0.04) / height,
                    (cell - 0.06) / width,
                    (cell - 0.06) / height,
                )
            )
            shades = {"vmin": 0.0, "vmax": first or 1.0, "cmap": _shades()}
            axes.imshow(values, interpolation="nearest", **({} if column == 0 else shades))  # type: ignore[arg-type]
            axes.set_xticks([])
            axes.set_yticks([])
            if line == 0:
                axes.set_title(["image", *queries][column], fontsize=10, pad=3)
        figure.text(
            (left - 0.12) / width,
            1 - (top + (line + 0.5) * cell) / height,
            name.replace("_", " "),
            ha="right",
            va="center",
            fontsize=10,
            wrap=True,
        )
    figure.text(0.5, 1 - 0.06 / height, title, ha="center", va="top", fontsize=11)
    return _pixels(figure)


def _shades() -> object:
    from matplotlib import colormaps

    return colormaps["viridis"].resampled(_SHADES)


def _figure(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    # A Figure of its own, never pyplot: nothing global, no window, no backend to choose.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout=layout)


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib has not typed its canvas
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(pixels[..., :3])
