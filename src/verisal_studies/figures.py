"""Figures of the studies: scores with intervals, maps by setting, and tables too large to show as numbers.

All return ``(H, W, 3)`` uint8 pixels, as wide as a page, and raise ``DataError`` if there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
from torch import Tensor

from verisal.errors import DataError
from verisal.pictures import COLOUR_SCALE, Canvas, Pixels, as_array, few_shades
from verisal.reporting.figures import saliency_panel_pixels
from verisal.reporting.lines import COLOURS, MARKERS
from verisal.results import Evaluation, SaliencyPanel, Score
from verisal_studies.scores import is_defined

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _PAGE = 8.6, 9.0
_LETTER: Final = 0.078


def dots_pixels(
    rows: Mapping[str, Mapping[str, Score]],
    *,
    title: str,
    label: str,
    line: float | None = None,
    high: float = math.inf,
) -> Pixels:
    """Draw one line per row with a dot and an interval per column, the same columns in all.

    Undefined scores are left out; values beyond ``high`` are drawn at it, as open dots; ``line`` is marked.
    """
    canvas, axes = _single_axes(rows, "scores needs at least one row", height=1.3 + 0.34 * len(rows))
    columns = list(next(iter(rows.values())))
    for number, column in enumerate(columns):
        colour, marker = _look(number)
        for place, scores in enumerate(rows.values()):
            score = scores[column]
            if not is_defined(score):
                continue
            height = place + (number - (len(columns) - 1) / 2) * 0.6 / len(columns)
            if score.ends is not None:
                ends = [min(score.low, high), min(score.high, high)]
                axes.plot(ends, [height, height], color=colour, linewidth=1.5)
            face = "white" if score.value > high else colour
            value = min(score.value, high)
            axes.plot([value], [height], marker, color=colour, markerfacecolor=face, markersize=5)
        axes.plot([], [], marker, color=colour, label=column)
    if line is not None:
        axes.axvline(line, color="0.5", linestyle=":", linewidth=1)
    _name_lines(axes, rows)
    for place in range(len(rows) - 1):
        axes.axhline(place + 0.5, color="0.92", linewidth=0.8, zorder=0)
    axes.set_xlabel(label, fontsize=10)
    axes.spines[["right", "top"]].set_visible(False)
    canvas.figure.suptitle(title, fontsize=12)
    canvas.figure.legend(loc="outside lower center", ncols=len(columns), fontsize=10, frameon=False)
    return canvas.pixels()


def interval_pixels(
    panels: Mapping[str, Mapping[str, Mapping[str, Score]]], *, title: str, reference: float | None = None
) -> Pixels:
    """Draw one panel per score with a mark and a 95 % interval per line and series.

    Panels share their lines, and each has its own scale. A score without a value is left out; one without an
    interval is only a mark. ``reference`` is where a vertical line is drawn, e.g. at no difference.

    Raises:
        DataError: nothing to draw, or panels of different lines.
    """
    lines = list(next(iter(panels.values()), {}))
    if not lines or any(list(panel) != lines for panel in panels.values()):
        raise DataError(
            f"expected at least one panel, and the same lines in all, found {list(panels)} and {lines}"
        )
    series = list(dict.fromkeys(name for panel in panels.values() for own in panel.values() for name in own))
    height = 1.2 + 0.12 * len(series) + len(lines) * (0.16 + 0.12 * len(series))
    canvas = Canvas(_PAGE, height, layout="constrained")
    subplots = np.atleast_1d(canvas.figure.subplots(1, len(panels), sharey=True))
    for axes, (name, panel) in zip(subplots, panels.items(), strict=True):
        if reference is not None:
            axes.axvline(reference, color="0.45", linewidth=1, linestyle="--")
        for number, kind in enumerate(series):
            shift = (number - (len(series) - 1) / 2) * 0.7 / len(series)
            drawn = [(place + shift, panel[line].get(kind)) for place, line in enumerate(lines)]
            known = [(place, score) for place, score in drawn if score and is_defined(score)]
            colour, marker = _look(number)
            axes.errorbar(
                [score.value for _, score in known],
                [place for place, _ in known],
                xerr=np.array([_reach(score) for _, score in known]).reshape(-1, 2).T,
                fmt=marker,
                color=colour,
                markersize=4.5,
                linewidth=1.4,
                label=kind,
            )
        axes.set_title(name, fontsize=10)
        _name_lines(axes, lines)
        axes.grid(visible=True, axis="x", color="0.92")
        axes.set_axisbelow(True)
    canvas.figure.suptitle(title, fontsize=11)
    if len(series) > 1:
        handles, labels = axes.get_legend_handles_labels()
        canvas.figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=10, frameon=False)
    return canvas.pixels()


def rank_lines_pixels(
    lines: Mapping[str, Mapping[str, Score]], *, title: str, label: str, floor: float = 1e-4
) -> Pixels:
    """Draw one line per row over ranks, on a logarithmic axis; values below ``floor`` are drawn at it."""
    canvas, axes = _single_axes(lines, "ranks needs at least one line")
    ranks = list(next(iter(lines.values())))
    for number, (name, scores) in enumerate(lines.items()):
        colour, marker = _look(number)
        style = ("-", "--")[number // len(COLOURS) % 2]
        values = [max(scores[rank].value, floor) for rank in ranks]
        axes.plot(values, color=colour, marker=marker, linestyle=style, markersize=5, label=name)
    axes.set_yscale("log")
    axes.set_ylim(bottom=floor * 0.8)
    axes.set_xticks(range(len(ranks)), labels=ranks, fontsize=10)
    axes.set_ylabel(label, fontsize=10)
    axes.tick_params(axis="y", labelsize=9)
    axes.grid(visible=True, axis="y", color="0.92")
    return _finished(canvas, axes, title)


def tradeoff_pixels(
    points: Mapping[str, tuple[Score, Score]], *, title: str, labels: tuple[str, str]
) -> Pixels:
    """Draw two scores of each row, on the horizontal and the vertical axis, with their intervals."""
    canvas, axes = _single_axes(points, "two scores needs at least one point")
    for number, (name, (x, y)) in enumerate(points.items()):
        colour, marker = _look(number)
        if x.ends is not None:
            axes.plot([x.low, x.high], [y.value, y.value], color=colour, linewidth=1.2)
        if y.ends is not None:
            axes.plot([x.value, x.value], [y.low, y.high], color=colour, linewidth=1.2)
        face = "white" if number >= len(COLOURS) else colour
        point = [x.value], [y.value], marker
        axes.plot(*point, color=colour, markerfacecolor=face, markersize=7, label=name)
    axes.set_xlabel(labels[0], fontsize=10)
    axes.set_ylabel(labels[1], fontsize=10)
    axes.tick_params(labelsize=9)
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)
    return _finished(canvas, axes, title)


def answer_maps_pixels(image: Tensor, rows: Mapping[str, Mapping[str, Tensor]], *, title: str) -> Pixels:
    """Draw ``(H, W)`` maps of one image ``(3, H, W)`` by row and query, the same queries in all rows.

    Each row is on one scale from 0 to the maximum of its first map.
    """
    _check_some(rows, "maps needs at least one row")
    queries = list(next(iter(rows.values())))
    cell, left, top = 0.94, 1.75, 0.62
    canvas = Canvas(left + cell * (len(queries) + 1), top + cell * len(rows) + 0.05)
    for line, (name, maps) in enumerate(rows.items()):
        limits = (0.0, float(next(iter(maps.values())).max()) or 1.0)
        for column, (query, values) in enumerate([("image", image), *((one, maps[one]) for one in queries)]):
            box = (left + column * cell, top + line * cell + 0.02, cell - 0.06, cell - 0.06)
            shown = canvas.picture(box, values, limits=limits, colours=few_shades(), framed=True)
            shown.set_title("" if line else query, fontsize=10, pad=3)
        words = name.replace("_", " ")
        middle = top + (line + 0.5) * cell
        canvas.text(left - 0.12, middle, words, ha="right", va="center", fontsize=10, wrap=True)
    canvas.text(canvas.width / 2, 0.06, title, ha="center", va="top", fontsize=11)
    return canvas.pixels()


def map_table_pixels(
    image: Tensor, rows: Mapping[str, Mapping[str, Tensor]], *, title: str, caption: str
) -> Pixels:
    """Draw ``(H, W)`` maps of one image ``(3, H, W)`` by row and column, each from 0 to its own maximum."""
    _check_some(rows, "maps needs at least one row")
    columns, left = list(next(iter(rows.values()))), 0.95
    cell = (_PAGE - left) / len(columns)
    top = 0.4 + max(0.25 + 0.75 * _LETTER * max(map(len, columns)), cell + 0.08)
    canvas = Canvas(_PAGE, top + cell * len(rows) + 0.3)
    canvas.picture((0.06, top - 0.86, 0.8, 0.8), image)
    for place, column in enumerate(columns):
        slanted = {"rotation": 45, "rotation_mode": "anchor", "ha": "left", "va": "bottom", "fontsize": 9}
        canvas.text(left + (place + 0.3) * cell, top - 0.04, column, **slanted)
    for line, (name, maps) in enumerate(rows.items()):
        for place, column in enumerate(columns):
            box = (left + place * cell, top + line * cell, cell - 0.04, cell - 0.04)
            canvas.picture(box, maps[column])
        middle = top + (line + 0.5) * cell
        canvas.text(left - 0.08, middle, name, ha="right", va="center", fontsize=10)
    canvas.text(_PAGE / 2, 0.06, title, ha="center", va="top", fontsize=12)
    canvas.text(_PAGE / 2, canvas.height - 0.06, caption, ha="center", va="bottom", fontsize=9)
    return canvas.pixels()


def matrices_pixels(
    matrices: Mapping[str, Tensor],
    names: Sequence[str],
    *,
    title: str,
    labels: tuple[str, str],
    scale: str,
    limits: tuple[float, float],
) -> Pixels:
    """Draw ``(N, N)`` tables side by side on one colour scale, NaN left white.

    ``labels`` say what rows and columns are, ``names`` which; ``scale`` is the title of the colour scale and
    ``limits`` are its ends. Limits on both sides of 0 get colours that diverge at 0.
    """
    _check_some(matrices, "tables needs at least one")
    longest = _LETTER * max(map(len, names))
    left, gap, right, top = 0.45 + longest, 0.2, 1.1, 0.75
    side = min(6.6, (_PAGE - left - right - gap * (len(matrices) - 1)) / len(matrices))
    width = left + len(matrices) * side + gap * (len(matrices) - 1) + right
    canvas = Canvas(width, top + side + 0.35 + 0.9 * longest)
    colours = "RdBu" if limits[0] < 0 < limits[1] else COLOUR_SCALE
    for place, (name, values) in enumerate(matrices.items()):
        axes = canvas.axes(left + place * (side + gap), top, side, side)
        shown = axes.imshow(as_array(values), cmap=colours, interpolation="nearest")
        shown.set_clim(*limits)
        axes.set_title(name, fontsize=10)
        axes.set_xticks(range(len(names)), labels=names, rotation=90, fontsize=9)
        axes.set_yticks(range(len(names)), labels=[] if place else names, fontsize=9)
        axes.tick_params(length=0, pad=2)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(labels[1], fontsize=10)
        axes.set_ylabel("" if place else labels[0], fontsize=10)
    bar = canvas.axes(width - right + 0.15, top, 0.16, side)
    canvas.figure.colorbar(shown, cax=bar).set_label(scale, fontsize=10)
    bar.tick_params(labelsize=9)
    canvas.text(width / 2, 0.08, title, ha="center", va="top", fontsize=12)
    return canvas.pixels()


def _check_some(shown: Collection[object], needed: str) -> None:
    if not shown:
        raise DataError(f"a figure of {needed}, found none")


def _single_axes(shown: Collection[object], needed: str, *, height: float = 4.6) -> tuple[Canvas, Axes]:
    _check_some(shown, needed)
    canvas = Canvas(_WIDTH, height, layout="constrained")
    return canvas, canvas.figure.subplots()


def _look(number: int) -> tuple[str, str]:
    """Colour and marker of a series."""
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def _name_lines(axes: Axes, names: Collection[str]) -> None:
    axes.set_yticks(range(len(names)), labels=list(names), fontsize=10)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=9)


def _reach(score: Score) -> tuple[float, float]:
    if score.ends is None:
        return 0.0, 0.0
    return max(0.0, score.value - score.low), max(0.0, score.high - score.value)


def _finished(canvas: Canvas, axes: Axes, title: str) -> Pixels:
    axes.spines[["right", "top"]].set_visible(False)
    canvas.figure.suptitle(title, fontsize=12)
    canvas.figure.legend(loc="outside right center", fontsize=9, frameon=False)
    return canvas.pixels()


def attacked_figure(evaluation: Evaluation) -> dict[str, Pixels]:
    """The first picture of maps before and after an attack, if the evaluation has one."""
    for panel in evaluation.panels:
        if isinstance(panel, SaliencyPanel) and any(name.endswith(", attacked") for name in panel.maps):
            return {"attacked_maps": saliency_panel_pixels(replace(panel, opacity=0.0))}
    return {}
