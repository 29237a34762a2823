"""Figures: curves, score histograms, and the panels a person looks at to believe or doubt an alarm."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from verisal.checkpoint import write_atomic
from verisal.errors import DataError
from verisal.results import Curve, Histogram, MaskPanel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_curves", "draw_histograms", "draw_roc", "panel_pixels", "write_png"]

# Colours that colour-blind readers tell apart (Okabe and Ito), and line styles for print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#8C510A")
_STYLES = ("-", "--", "-.", ":")
_DPI = 120
_DIFFERENCE_GAIN = 10.0
# Inches of a panel: one picture, the space right of it, the left margin, the room of a colour scale.
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
    _check_some(curves, path)
    figure = _figure(11.0, 5.0 + 0.28 * ((len(curves) + 1) // 2))
    linear, low = figure.subplots(1, 2)
    for axes in (linear, low):
        _draw_lines(axes, curves, legend)
        axes.set_ylim(-0.02, 1.02)
    linear.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    linear.set_xlim(-0.02, 1.02)
    linear.set_aspect("equal")
    linear.set_title("all thresholds", fontsize=11)
    floor = _smallest_rate(curves)
    rates = np.geomspace(floor, 1.0, 200)
    low.plot(rates, rates, color="0.6", linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    low.set_xscale("log")
    low.set_xlim(floor, 1.0)
    ticks = [rate for rate in (0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1.0) if rate >= 0.99 * floor]
    low.set_xticks(ticks, labels=[f"{100 * rate:g} %" for rate in ticks])
    low.minorticks_off()
    low.set_title("few false alarms (log axis)", fontsize=11)
    figure.suptitle(title, fontsize=13)
    handles, labels = linear.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=10, frameon=False)
    _save(figure, path)


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
    _check_some(curves, path)
    figure = _figure(7.0, 4.5 + 0.25 * len(curves))
    axes = figure.subplots()
    _draw_lines(axes, curves, legend)
    figure.suptitle(title, fontsize=13)
    figure.legend(loc="outside lower center", fontsize=10, frameon=False)
    _save(figure, path)


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
    groups = {name: _array(scores).ravel() for name, scores in histogram.groups.items()}
    finite = {name: scores[np.isfinite(scores)] for name, scores in groups.items()}
    pooled = np.concatenate([*finite.values(), np.empty(0)])
    if pooled.size == 0:
        raise DataError(f"{path.name}: no finite score to draw in groups {list(groups)}")
    low, high = _range(pooled, list(histogram.thresholds.values()))
    edges = np.linspace(low, high, 41)
    figure = _figure(9.0, 1.3 + 0.85 * len(groups))
    strips = np.atleast_1d(figure.subplots(len(groups), 1, sharex=True))
    for number, (name, axes) in enumerate(zip(groups, strips, strict=True)):
        scores = finite[name]
        share = np.histogram(np.clip(scores, low, high), edges)[0] / max(len(scores), 1)
        axes.stairs(share, edges, fill=True, color=_COLOURS[number % len(_COLOURS)], alpha=0.75)
        axes.set_ylabel(
            _strip_label(name, len(scores), len(groups[name]) - len(scores)),
            rotation=0,
            ha="right",
            va="center",
            fontsize=10,
        )
        axes.set_yticks([])
        axes.spines[["left", "right", "top"]].set_visible(False)
        _draw_thresholds(axes, histogram.thresholds, scores, first=number == 0)
    strips[-1].set_xlabel(f"{histogram.x_label}\n(first and last bar: all beyond)", fontsize=11)
    strips[-1].set_xlim(low, high)
    figure.suptitle(title, fontsize=13)
    _save(figure, path)


def panel_pixels(panel: MaskPanel) -> NDArray[np.uint8]:
    """Draw one attacked image and its maps beside its clean self, as ``(H, W, 3)`` uint8 pixels.

    Rows are clean, attacked, and attacked minus clean; columns are the image, the raw map of every stage, and
    the fused map. The two maps of a column share one scale. The image difference is drawn ten times as large,
    around mid grey; the difference of maps in red (more than clean) and blue (less).

    Args:
        panel: pictures of one image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(_panel_figure(panel))
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib has not typed its canvas
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(pixels[..., :3])


def write_png(pixels: NDArray[np.uint8], path: Path, *, colours: int | None = None) -> None:
    """Write ``(H, W, 3)`` uint8 pixels as they are, or in their most telling colours.

    Args:
        pixels: what to write.
        path: PNG file to write.
        colours: most colours of the file, at most 256, so that noisy pictures take a third of the bytes;
            None for all.
    """
    from PIL import Image

    picture = Image.fromarray(pixels)
    if colours is not None:
        picture = picture.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    _write(path, content)


def _panel_figure(panel: MaskPanel) -> Figure:
    """Places every cell by hand, in inches: an automatic layout takes four times as long as the drawing."""
    maps = [
        *((name, panel.clean_layers[name], panel.attacked_layers[name]) for name in panel.clean_layers),
        ("fused", panel.clean_fused, panel.attacked_fused),
    ]
    width = _MARGIN + (_CELL + _GAP) * (len(maps) + 1)
    caption = textwrap.wrap(panel.caption, width=int(width * 11.5))
    bottom = 0.35 + 0.2 * len(caption)
    height = bottom + 3 * _CELL + 2 * _BAR + 0.1 + 0.65
    figure = _figure(width, height, layout=None)

    def place(column: int, row: int, *, bar: bool = False) -> Axes:
        left = _MARGIN + column * (_CELL + _GAP)
        top = height - 0.65 - row * (_CELL + 0.1) - (_BAR if row == 2 else 0.0)
        low = top - _CELL - 0.18 if bar else top - _CELL
        axes = figure.add_axes((left / width, low / height, _CELL / width, (0.1 if bar else _CELL) / height))
        axes.set_xticks([])
        axes.set_yticks([])
        return axes

    _draw_images([place(0, row) for row in range(3)], panel)
    for column, (name, clean, attacked) in enumerate(maps, start=1):
        cells = [place(column, row) for row in range(3)]
        bars = [place(column, row, bar=True) for row in (1, 2)]
        _draw_maps(cells, bars, name, (_array(clean), _array(attacked)))
    figure.text(
        0.5,
        1 - 0.12 / height,
        f"{panel.attack}, image {panel.image_id}",
        ha="center",
        va="top",
        fontsize=12,
        parse_math=False,
    )
    figure.text(0.5, 0.1 / height, "\n".join(caption), ha="center", va="bottom", fontsize=10)
    return figure


def _draw_images(cells: Sequence[Axes], panel: MaskPanel) -> None:
    clean, attacked = _array(panel.clean), _array(panel.attacked)
    difference = np.clip(0.5 + _DIFFERENCE_GAIN * (attacked - clean), 0.0, 1.0)
    names = ("clean", "attacked", "attacked - clean")
    for axes, image, name in zip(cells, (clean, attacked, difference), names, strict=True):
        axes.imshow(np.clip(image, 0.0, 1.0).transpose(1, 2, 0), interpolation="nearest", aspect="auto")
        axes.set_ylabel(name, fontsize=11)
    cells[0].set_title("image", fontsize=11)
    cells[2].set_xlabel(f"x {_DIFFERENCE_GAIN:.0f} around grey", fontsize=9)


def _draw_maps(
    cells: Sequence[Axes],
    bars: Sequence[Axes],
    name: str,
    maps: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> None:
    change = maps[1] - maps[0]
    finite = [values[np.isfinite(values)] for values in (np.concatenate([m.ravel() for m in maps]), change)]
    low, high = (float(finite[0].min()), float(finite[0].max())) if finite[0].size else (0.0, 0.0)
    reach = float(np.abs(finite[1]).max()) if finite[1].size else 0.0
    cells[0].set_title(name, fontsize=11)
    for axes, values in zip(cells[:2], maps, strict=True):
        axes.imshow(values, vmin=low, vmax=high, cmap="viridis", interpolation="nearest", aspect="auto")
    cells[2].imshow(change, vmin=-reach, vmax=reach, cmap="RdBu_r", interpolation="nearest", aspect="auto")
    for axes, ends, colours in zip(bars, ((low, high), (-reach, reach)), ("viridis", "RdBu_r"), strict=True):
        axes.imshow(np.linspace(0.0, 1.0, 64)[None], cmap=colours, aspect="auto")
        for end, x, side in ((ends[0], 0.0, "left"), (ends[1], 1.0, "right")):
            axes.text(x, -0.4, f"{end:.2g}", transform=axes.transAxes, ha=side, va="top", fontsize=9)


def _draw_lines(axes: Axes, curves: Sequence[Curve], legend: Mapping[str, str]) -> None:
    for number, curve in enumerate(curves):
        axes.plot(
            _array(curve.x),
            _array(curve.y),
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_STYLES[number // len(_COLOURS) % len(_STYLES)],
            linewidth=2.0,
            label=legend.get(curve.label, curve.label),
        )
    axes.set_xlabel(curves[0].x_label, fontsize=11)
    axes.set_ylabel(curves[0].y_label, fontsize=11)
    axes.grid(visible=True, color="0.92")
    axes.set_axisbelow(True)


def _draw_thresholds(
    axes: Axes, thresholds: Mapping[str, float], scores: NDArray[np.float64], *, first: bool
) -> None:
    marks = sorted((value, name) for name, value in thresholds.items() if np.isfinite(value))
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
        axes.annotate(
            name,
            (position, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(shift, 2),
            textcoords="offset points",
            ha=side,
            va="bottom",
            fontsize=9,
        )
    _note(axes, "above " + " / ".join(name for _, name in marks), (1.0, 1.0), offset=(8, 2), va="bottom")


def _note(axes: Axes, text: str, place: tuple[float, float], *, offset: tuple[float, float], va: str) -> None:
    axes.annotate(
        text, place, xycoords="axes fraction", xytext=offset, textcoords="offset points", va=va, fontsize=9
    )


def _strip_label(name: str, count: int, left_out: int) -> str:
    return f"{name}\nn = {count}" + (f", {left_out} not finite" if left_out else "")


def _range(pooled: NDArray[np.float64], thresholds: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(pooled, [0.5, 99.5])
    marks = [value for value in thresholds if np.isfinite(value)]
    low, high = min([low, *marks]), max([high, *marks])
    margin = 0.02 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _smallest_rate(curves: Sequence[Curve]) -> float:
    """Lowest rate that the log axis must show: the smallest one that occurs, within 0.0001 and 0.01."""
    rates = np.concatenate([_array(curve.x) for curve in curves])
    positive = rates[rates > 0.0]
    return float(np.clip(positive.min() if positive.size else 1e-3, 1e-4, 1e-2))


def _array(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.detach().cpu().double().numpy(), dtype=np.float64)


def _check_some(curves: Sequence[Curve], path: Path) -> None:
    if not curves:
        raise DataError(f"{path.name}: no curves to draw")


def _figure(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    # A Figure of its own, never pyplot: nothing global, no window, no backend to choose.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout=layout)


def _save(figure: Figure, path: Path) -> None:
    content = io.BytesIO()
    # No version inside: equal figures are equal files.
    figure.savefig(content, format="png", metadata={"Software": None})
    _write(path, content)


def _write(path: Path, content: io.BytesIO) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.getvalue())
