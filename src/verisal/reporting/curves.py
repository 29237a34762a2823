"""Figures of lines: ROC curves, and curves of any kind with the bands of their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from verisal.errors import DataError
from verisal.pictures import Canvas, Pixels, as_array, write_png
from verisal.reporting.lines import look
from verisal.reporting.words import in_words
from verisal.results import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 120
# Names below an axis: how many, and letters in all that stand side by side.
_MOST_TICKS, _TICK_LETTERS = 40, 50
# Beyond this many lines bands cover each other.
_MOST_BANDS = 6


def draw_roc(curves: Sequence[Curve], path: Path, *, legend: Mapping[str, str], title: str) -> None:
    """Write :func:`roc_pixels` as a PNG file.

    Args:
        curves: one per detector; ``x`` is the false, ``y`` the true positive rate.
        path: PNG file to write.
        legend: curve label to legend text, e.g. with its AUROC; the label in words where missing.
        title: title of the figure.

    Raises:
        DataError: no curves.
    """
    if not curves:
        raise DataError(f"{path.name}: no curves to draw")
    write_png(roc_pixels(curves, legend=legend, title=title), path)


def roc_pixels(curves: Sequence[Curve], *, legend: Mapping[str, str], title: str) -> Pixels:
    """Draw ROC curves twice: whole, and with the false positive rate on a log axis where alarms are set.

    Args:
        curves: one per detector; ``x`` is the false, ``y`` the true positive rate.
        legend: curve label to legend text, e.g. with its AUROC; the label in words where missing.
        title: title of the figure.
    """
    canvas = Canvas(11.0, 5.0 + 0.28 * ((len(curves) + 1) // 2), dpi=_DPI, layout="constrained")
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
    _name(canvas, linear, title, columns=2)
    return canvas.pixels()


def draw_curves(curves: Sequence[Curve], path: Path, *, legend: Mapping[str, str], title: str) -> None:
    """Write :func:`curve_pixels` as a PNG file.

    Args:
        curves: lines that share the axis titles of the first one.
        path: PNG file to write.
        legend: curve label to legend text; the label in words where missing.
        title: title of the figure.

    Raises:
        DataError: no curves.
    """
    if not curves:
        raise DataError(f"{path.name}: no curves to draw")
    write_png(curve_pixels(curves, legend=legend, title=title), path)


def curve_pixels(curves: Sequence[Curve], *, title: str, legend: Mapping[str, str] | None = None) -> Pixels:
    """Draw curves of any kind in one pair of axes, as ``(H, W, 3)`` uint8 pixels.

    Up to six lines have the bands of their intervals.

    Args:
        curves: lines that share the axis titles of the first one.
        title: title of the figure.
        legend: curve label to legend text; the label in words where missing.
    """
    canvas = Canvas(7.0, 4.5 + 0.25 * len(curves), dpi=_DPI, layout="constrained")
    axes = canvas.figure.subplots()
    _draw_lines(axes, curves, legend or {})
    _name(canvas, axes, title)
    return canvas.pixels()


def _name(canvas: Canvas, axes: Axes, title: str, *, columns: int = 1) -> None:
    """Title and legend, in which dollars are no formulas."""
    canvas.figure.suptitle(title, fontsize=13, parse_math=False)
    legend = canvas.figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=10,
        frameon=False, handlelength=3.5,
    )  # fmt: skip
    for words in legend.get_texts():
        words.set_parse_math(False)


def _draw_lines(axes: Axes, curves: Sequence[Curve], legend: Mapping[str, str]) -> None:
    counts = {curve.n for curve in curves}
    same = counts.pop() if len(counts) == 1 else None
    banded = False
    for number, curve in enumerate(curves):
        counted = "" if curve.n is None or same is not None else f" ({curve.n} images)"
        colour, marker, style = look(number)
        x, y = as_array(curve.x), as_array(curve.y)
        # What would lie under later lines shows as their border.
        above = sum(_coincide(curve, other) for other in curves[number + 1 :])
        axes.plot(
            x,
            y,
            color=colour,
            linestyle=style,
            linewidth=2.0 + 2.5 * above,
            label=legend.get(curve.label, in_words(curve.label)) + counted,
            marker=marker,
            markersize=5,
            # Shares of the axes' diagonal; shifted, so that markers of neighbours stand apart.
            markevery=None if curve.ticks else (0.02 * (number % 8), 0.16),
        )
        if curve.low is not None and curve.high is not None and len(curves) <= _MOST_BANDS:
            banded = True
            axes.fill_between(
                x, as_array(curve.low), as_array(curve.high), color=colour, alpha=0.13, linewidth=0
            )
    if names := curves[0].ticks:
        # As many as can be read.
        shown = range(0, len(names), -(-len(names) // _MOST_TICKS))
        words = [names[place] for place in shown]
        slanted = sum(map(len, words)) > _TICK_LETTERS
        axes.set_xticks(
            as_array(curves[0].x)[list(shown)], labels=words, rotation=90 if slanted else 0, parse_math=False
        )
    notes = [f"mean of {same} images" if same is not None else "", "bands: 95 % intervals" if banded else ""]
    note = "; ".join(part for part in notes if part)
    below = f"{curves[0].x_label}\n({note})" if note else curves[0].x_label
    axes.set_xlabel(below, fontsize=11, parse_math=False)
    axes.set_ylabel(curves[0].y_label, fontsize=11, parse_math=False)
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)


def _coincide(one: Curve, other: Curve) -> bool:
    lines = [(as_array(curve.x), as_array(curve.y)) for curve in (one, other)]
    return all(
        len(values) == len(others) and np.allclose(values, others, atol=1e-3)
        for values, others in zip(*lines, strict=True)
    )


def _smallest_rate(curves: Sequence[Curve]) -> float:
    """Lowest rate that the log axis must show: the smallest one that occurs, within 0.0001 and 0.01."""
    rates = np.concatenate([as_array(curve.x) for curve in curves])
    positive = rates[rates > 0.0]
    return float(np.clip(positive.min() if positive.size else 1e-3, 1e-4, 1e-2))
