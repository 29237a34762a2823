"""Figures of a report: curves, histograms, tables of numbers, and panels of images with their maps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from verisal.errors import DataError
from verisal.pictures import (
    COLOUR_SCALE,
    Canvas,
    Pixels,
    as_array,
    displayed,
    greatest,
    largest,
    picked,
    write_png,
)
from verisal.reporting.lines import COLOURS, STYLES
from verisal.results import Curve, Heatmap, Histogram, MaskPanel, SaliencyPanel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 120
_DIFFERENCE_GAIN = 10.0
# Names below an axis: how many, and letters in all that stand side by side.
_MOST_TICKS, _TICK_LETTERS = 40, 50
# Inches of a panel of masks: a picture, the space right of it, the left margin, the room of a colour scale.
_CELL, _GAP, _MARGIN, _BAR = 1.6, 0.2, 0.45, 0.45


def draw_roc(curves: Sequence[Curve], path: Path, *, legend: Mapping[str, str], title: str) -> None:
    """Draw ROC curves twice: whole, and with the false positive rate on a log axis where alarms are set.

    Args:
        curves: one per detector; ``x`` is the false, ``y`` the true positive rate.
        path: PNG file to write.
        legend: curve label to legend text, e.g. with its AUROC; the label itself where missing.
        title: title of the figure.

    Raises:
        DataError: no curves.
    """
    canvas = _canvas_for(curves, path, 11.0, 5.0 + 0.28 * ((len(curves) + 1) // 2))
    linear, low = canvas.figure.subplots(1, 2)
    floor = _smallest_rate(curves)
    for axes, chance in ((linear, np.array([0.0, 1.0])), (low, np.geomspace(floor, 1.0, 200))):
        _draw_lines(axes, curves, legend)
        axes.plot(chance, chance, color="0.6", linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        axes.set_ylim(-0.02, 1.02)
    linear.set_xlim(-0.02, 1.02)
    linear.set_aspect("equal")
    linear.set_title("all thresholds", fontsize=11)
    low.set_xscale("log")
    low.set_xlim(floor, 1.0)
    ticks = [rate for rate in (0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0) if rate >= 0.99 * floor]
    low.set_xticks(ticks, labels=[f"{100 * rate:g} %" for rate in ticks])
    low.minorticks_off()
    low.set_title("few false alarms (log axis)", fontsize=11)
    canvas.figure.suptitle(title, fontsize=13)
    handles, labels = linear.get_legend_handles_labels()
    canvas.figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=10, frameon=False)
    canvas.save(path)


def draw_curves(curves: Sequence[Curve], path: Path, *, legend: Mapping[str, str], title: str) -> None:
    """Draw curves of any kind in one pair of axes.

    Args:
        curves: lines that share the axis titles of the first one.
        path: PNG file to write.
        legend: curve label to legend text; the label itself where missing.
        title: title of the figure.

    Raises:
        DataError: no curves.
    """
    if not curves:
        raise DataError(f"{path.name}: no curves to draw")
    write_png(curve_pixels(curves, legend=legend, title=title), path)


def curve_pixels(curves: Sequence[Curve], *, title: str, legend: Mapping[str, str] | None = None) -> Pixels:
    """Draw curves of any kind in one pair of axes, as ``(H, W, 3)`` uint8 pixels.

    Args:
        curves: lines that share the axis titles of the first one.
        title: title of the figure.
        legend: curve label to legend text; the label itself where missing.
    """
    canvas = Canvas(7.0, 4.5 + 0.25 * len(curves), dpi=_DPI, layout="constrained")
    _draw_lines(canvas.figure.subplots(), curves, legend or {})
    canvas.figure.suptitle(title, fontsize=13)
    canvas.figure.legend(loc="outside lower center", fontsize=10, frameon=False)
    return canvas.pixels()


def draw_histograms(histogram: Histogram, path: Path, *, title: str) -> None:
    """Draw one strip per group on a shared axis, with the thresholds and the share of images beyond them.

    Scores outside the middle 99 % of all scores count in the outermost bins, so that one wild score does not
    flatten the rest; scores that are not finite are left out and counted at the strip.

    Args:
        histogram: groups of scores.
        path: PNG file to write.
        title: title of the figure.

    Raises:
        DataError: no group has a finite score.
    """
    groups = {name: as_array(scores).ravel() for name, scores in histogram.groups.items()}
    finite = {name: scores[np.isfinite(scores)] for name, scores in groups.items()}
    pooled = np.concatenate([*finite.values(), np.empty(0)])
    if pooled.size == 0:
        raise DataError(f"{path.name}: no finite score to draw in groups {list(groups)}")
    marks = sorted((value, name) for name, value in histogram.thresholds.items() if np.isfinite(value))
    low, high = _range(pooled, [value for value, _ in marks])
    edges = np.linspace(low, high, 41)
    canvas = Canvas(9.0, 1.3 + 0.85 * len(groups), dpi=_DPI, layout="constrained")
    strips = np.atleast_1d(canvas.figure.subplots(len(groups), 1, sharex=True))
    for number, (name, axes) in enumerate(zip(groups, strips, strict=True)):
        scores, left_out = finite[name], len(groups[name]) - len(finite[name])
        share = np.histogram(np.clip(scores, low, high), edges)[0] / max(len(scores), 1)
        axes.stairs(share, edges, fill=True, color=COLOURS[number % len(COLOURS)], alpha=0.75)
        counted = f"{name}\nn = {len(scores)}" + (f", {left_out} not finite" if left_out else "")
        axes.set_ylabel(counted, rotation=0, ha="right", va="center", fontsize=10)
        axes.set_yticks([])
        axes.spines[["left", "right", "top"]].set_visible(False)
        _draw_thresholds(axes, marks, scores, first=number == 0)
    strips[-1].set_xlabel(f"{histogram.x_label}\n(first and last bar: all beyond)", fontsize=11)
    strips[-1].set_xlim(low, high)
    canvas.figure.suptitle(title, fontsize=13)
    canvas.save(path)


def heatmap_pixels(heatmap: Heatmap) -> NDArray[np.uint8]:
    """Draw a table with every number in its cell, as ``(H, W, 3)`` uint8 pixels.

    Args:
        heatmap: names and numbers.
    """
    from matplotlib.patches import Rectangle

    across, down, letter = 0.78, 0.34, 0.085
    values = as_array(heatmap.values)
    lines, columns = values.shape
    left = 0.5 + letter * max(map(len, heatmap.rows))
    top = 0.75 + 0.72 * letter * max(map(len, heatmap.columns))
    # Slanted names start over the middle of their column and lean beyond the last one.
    right = max(
        0.2 + 0.72 * letter * len(name) - (columns - place - 0.5) * across
        for place, name in enumerate(heatmap.columns)
    )
    width = max(left + columns * across + max(right, 0.1), 4.5, 0.1 * len(heatmap.title))
    caption = textwrap.wrap(heatmap.caption, width=int(width * 12))
    height = top + lines * down + 0.2 + 0.17 * len(caption)
    canvas = Canvas(width, height)
    axes = canvas.axes(left, top, columns * across, lines * down)
    low, high = heatmap.limits
    axes.imshow(values, vmin=low, vmax=high, cmap=COLOUR_SCALE, aspect="auto")
    for (line, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value < low + 0.6 * (high - low) else "black"
            axes.text(column, line, f"{value:z.3f}", ha="center", va="center", fontsize=9, color=colour)
    for line, column in [] if heatmap.marked is None else heatmap.marked.nonzero().tolist():
        place = (column - 0.47, line - 0.45)
        axes.add_patch(Rectangle(place, 0.94, 0.9, fill=False, edgecolor="#D55E00", linewidth=2))
    axes.set_xticks(range(columns), labels=heatmap.columns, rotation=45, ha="left", fontsize=9)
    axes.set_yticks(range(lines), labels=heatmap.rows, fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_ylabel(heatmap.row_label, fontsize=9)
    axes.spines[:].set_visible(False)
    canvas.text(width / 2, 0.08, heatmap.title, ha="center", va="top", fontsize=11)
    canvas.text(width / 2, 0.3, heatmap.column_label, ha="center", va="top", fontsize=9)
    canvas.text(width / 2, height - 0.08, "\n".join(caption), ha="center", va="bottom", fontsize=8)
    return canvas.pixels()


def saliency_panel_pixels(panel: SaliencyPanel) -> NDArray[np.uint8]:
    """Draw an image and its maps, each from 0 to its own maximum, as ``(H, W, 3)`` uint8 pixels.

    The largest value stands above each map, for the scales differ. Values that are not finite are left white.
    Further images are drawn as they are.

    Args:
        panel: image and maps.
    """
    cell, gap, margin, most_columns, letters = 1.5, 0.1, 0.15, 7, 24
    cells = 1 + len(panel.maps)
    names = {name: textwrap.wrap(name, letters) for name in panel.maps}
    # Name and largest value.
    title = 0.16 * (1 + max(map(len, names.values()), default=1)) + 0.04
    columns, lines = min(cells, most_columns), -(-cells // most_columns)
    width = 2 * margin + columns * (cell + gap)
    caption = textwrap.wrap(f"{panel.image_id}: {panel.caption}", width=int(width * 12))
    height = margin + lines * (cell + title + gap) + 0.2 * len(caption) + 0.15
    canvas = Canvas(width, height)
    for place, (name, values) in enumerate([("image", panel.image), *panel.maps.items()]):
        left = margin + place % columns * (cell + gap)
        top = margin + place // columns * (cell + title + gap) + title
        words, size = name, 9
        if place:
            scale = [greatest(as_array(values))] if values.ndim == 2 else []
            words, size = "\n".join([*names[name], *scale]), 8
        canvas.picture((left, top, cell, cell), values, title=words, fontsize=size, pad=3)
    canvas.text(width / 2, height - 0.07, "\n".join(caption), ha="center", va="bottom", fontsize=9)
    return canvas.pixels()


def panel_pixels(panel: MaskPanel) -> NDArray[np.uint8]:
    """Draw one attacked image and its maps beside its clean self, as ``(H, W, 3)`` uint8 pixels.

    Rows are clean, attacked, and attacked minus clean; columns are the image, the raw map of every stage, and
    the fused map. The two maps of a column share one scale. The image difference is drawn ten times as large,
    around mid grey; the difference of maps in red (more than clean) and blue (less).

    Args:
        panel: pictures of one image.
    """
    maps = [(name, panel.clean_layers[name], panel.attacked_layers[name]) for name in panel.clean_layers]
    maps.append(("fused", panel.clean_fused, panel.attacked_fused))
    width = _MARGIN + (_CELL + _GAP) * (len(maps) + 1)
    caption = textwrap.wrap(panel.caption, width=int(width * 11.5))
    height = 0.35 + 0.2 * len(caption) + 3 * _CELL + 2 * _BAR + 0.1 + 0.65
    canvas = Canvas(width, height, dpi=_DPI)
    clean, attacked = displayed(torch.stack([panel.clean, panel.attacked]), like=panel.clean[None])
    difference = 0.5 + _DIFFERENCE_GAIN * picked((panel.attacked - panel.clean)[None])[0]
    for row, (name, image) in enumerate(
        (("clean", clean), ("attacked", attacked), ("attacked - clean", difference))
    ):
        axes = canvas.picture(_place(0, row), image, title="" if row else "image", framed=True)
        axes.set_ylabel(name, fontsize=11)
    axes.set_xlabel(f"x {_DIFFERENCE_GAIN:.0f} around grey", fontsize=9)
    for column, (name, *pair) in enumerate(maps, start=1):
        _draw_maps(canvas, column, name, as_array(pair[0]), as_array(pair[1]))
    head = f"{panel.attack}, image {panel.image_id}"
    canvas.text(width / 2, 0.12, head, ha="center", va="top", fontsize=12)
    canvas.text(width / 2, height - 0.1, "\n".join(caption), ha="center", va="bottom", fontsize=10)
    return canvas.pixels()


def _place(column: int, row: int) -> tuple[float, float, float, float]:
    """Box of a picture in a panel of masks; the scale of the first two rows stands above the last one."""
    top = 0.65 + row * (_CELL + 0.1) + (_BAR if row == 2 else 0.0)
    return _MARGIN + column * (_CELL + _GAP), top, _CELL, _CELL


def _draw_maps(
    canvas: Canvas, column: int, name: str, clean: NDArray[np.float64], attacked: NDArray[np.float64]
) -> None:
    change = attacked - clean
    both = np.stack([clean, attacked])
    # No change at all is white, not the end of a scale without length.
    ends, reach = (-largest(-both), largest(both)), largest(np.abs(change)) or 1.0
    for row, values in enumerate((clean, attacked)):
        canvas.picture(_place(column, row), values, title="" if row else name, limits=ends, framed=True)
    difference = (-reach, reach)
    canvas.picture(_place(column, 2), change, limits=difference, colours="RdBu_r", framed=True)
    for row, limits, colours in ((1, ends, COLOUR_SCALE), (2, difference, "RdBu_r")):
        left, top, _, _ = _place(column, row)
        axes = canvas.axes(left, top + _CELL + 0.08, _CELL, 0.1)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.imshow(np.linspace(0.0, 1.0, 64)[None], cmap=colours, aspect="auto")
        for end, x, side in ((limits[0], 0.0, "left"), (limits[1], 1.0, "right")):
            axes.text(x, -0.4, f"{end:.2g}", transform=axes.transAxes, ha=side, va="top", fontsize=9)


def _canvas_for(curves: Sequence[Curve], path: Path, width: float, height: float) -> Canvas:
    if not curves:
        raise DataError(f"{path.name}: no curves to draw")
    return Canvas(width, height, dpi=_DPI, layout="constrained")


def _draw_lines(axes: Axes, curves: Sequence[Curve], legend: Mapping[str, str]) -> None:
    for number, curve in enumerate(curves):
        counted = "" if curve.n is None else f" ({curve.n} images)"
        # What would lie under later lines shows as their border.
        above = sum(_coincide(curve, other) for other in curves[number + 1 :])
        axes.plot(
            as_array(curve.x),
            as_array(curve.y),
            color=COLOURS[number % len(COLOURS)],
            linestyle=STYLES[number // len(COLOURS) % len(STYLES)],
            linewidth=2.0 + 2.5 * above,
            label=legend.get(curve.label, curve.label) + counted,
            marker="o" if curve.ticks else None,
        )
    if names := curves[0].ticks:
        # As many as can be read.
        shown = range(0, len(names), -(-len(names) // _MOST_TICKS))
        words = [names[place] for place in shown]
        slanted = sum(map(len, words)) > _TICK_LETTERS
        axes.set_xticks(as_array(curves[0].x)[list(shown)], labels=words, rotation=90 if slanted else 0)
    axes.set_xlabel(curves[0].x_label, fontsize=11)
    axes.set_ylabel(curves[0].y_label, fontsize=11)
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)


def _coincide(one: Curve, other: Curve) -> bool:
    lines = [(as_array(curve.x), as_array(curve.y)) for curve in (one, other)]
    return all(
        len(values) == len(others) and np.allclose(values, others, atol=1e-3)
        for values, others in zip(*lines, strict=True)
    )


def _draw_thresholds(
    axes: Axes, marks: Sequence[tuple[float, str]], scores: NDArray[np.float64], *, first: bool
) -> None:
    for position, _ in marks:
        axes.axvline(position, color="0.25", linewidth=1, linestyle="--")
    if marks and len(scores):
        shares = " / ".join(f"{np.mean(scores > position):.1%}" for position, _ in marks)
        _note(axes, shares, (1.0, 0.5), offset=(8, 0), va="center")
    if not marks or not first:
        return
    for number, (position, name) in enumerate(marks):
        # Neighbours grow away from each other, so that close thresholds stay readable.
        side = "right" if number == 0 and len(marks) > 1 else "left" if number == len(marks) - 1 else "center"
        shift = {"right": -2.0, "left": 2.0, "center": 0.0}[side]
        _note(axes, name, (position, 1.0), offset=(shift, 2), va="bottom", across="data", ha=side)
    _note(axes, "above " + " / ".join(name for _, name in marks), (1.0, 1.0), offset=(8, 2), va="bottom")


def _note(
    axes: Axes,
    text: str,
    place: tuple[float, float],
    *,
    offset: tuple[float, float],
    va: str,
    ha: str = "left",
    across: str = "axes fraction",
) -> None:
    axes.annotate(
        text, place, xycoords=(across, "axes fraction"), xytext=offset, textcoords="offset points",
        va=va, ha=ha, fontsize=9,
    )  # fmt: skip


def _range(pooled: NDArray[np.float64], marks: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(pooled, [0.5, 99.5])
    low, high = min([low, *marks]), max([high, *marks])
    margin = 0.02 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _smallest_rate(curves: Sequence[Curve]) -> float:
    """Lowest rate that the log axis must show: the smallest one that occurs, within 0.0001 and 0.01."""
    rates = np.concatenate([as_array(curve.x) for curve in curves])
    positive = rates[rates > 0.0]
    return float(np.clip(positive.min() if positive.size else 1e-3, 1e-4, 1e-2))
