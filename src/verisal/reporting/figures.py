"""Figures: curves, score histograms, and the panels a person looks at to believe or doubt an alarm."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from verisal.errors import DataError
from verisal.types import Curve, Histogram, MaskPanel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_curves", "draw_histograms", "draw_panel", "draw_roc", "panel_pixels"]

# Colours that colour-blind readers tell apart (Okabe and Ito), and line styles for print.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#8C510A")
_STYLES = ("-", "--", "-.", ":")
_DPI = 120
_DIFFERENCE_GAIN = 10.0


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
    for rate, name in ((0.01, "1 %"), (0.05, "5 %")):
        if rate > floor:
            low.axvline(rate, color="0.75", linewidth=1, zorder=0)
            low.annotate(
                name, (rate, 0.01), xytext=(3, 0), textcoords="offset points", fontsize=9, color="0.35"
            )
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
    strips[-1].set_xlabel(histogram.x_label, fontsize=11)
    strips[-1].set_xlim(low, high)
    figure.suptitle(title, fontsize=13)
    _save(figure, path)


def draw_panel(panel: MaskPanel, path: Path) -> None:
    """Draw one attacked image and its maps beside its clean self; see :func:`panel_pixels`.

    Args:
        panel: pictures of one image.
        path: PNG file to write.
    """
    _save(_panel_figure(panel), path)


def panel_pixels(panel: MaskPanel) -> NDArray[np.uint8]:
    """The panel as ``(H, W, 3)`` uint8 pixels.

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


def _panel_figure(panel: MaskPanel) -> Figure:
    columns = [
        *((name, panel.clean_layers[name], panel.attacked_layers[name]) for name in panel.clean_layers),
        ("fused", panel.clean_fused, panel.attacked_fused),
    ]
    width = 0.9 + 1.75 * (len(columns) + 1)
    caption = textwrap.fill(panel.caption, width=int(width * 12))
    figure = _figure(width, 6.0 + 0.2 * caption.count("\n"))
    grid = figure.subplots(3, len(columns) + 1, squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    for axes, name in zip(grid[:, 0], ("clean", "attacked", "attacked\n- clean"), strict=True):
        axes.set_ylabel(name, fontsize=11)
    _draw_images(grid[:, 0], panel)
    for axes, (name, clean, attacked) in zip(grid[:, 1:].T, columns, strict=True):
        _draw_maps(figure, axes, name, _array(clean), _array(attacked))
    figure.suptitle(f"{panel.attack}, image {panel.image_id}", fontsize=12)
    figure.supxlabel(caption, fontsize=10)
    return figure


def _draw_images(column: NDArray[Any], panel: MaskPanel) -> None:
    clean, attacked = _array(panel.clean), _array(panel.attacked)
    difference = np.clip(0.5 + _DIFFERENCE_GAIN * (attacked - clean), 0.0, 1.0)
    titles = ("image", "", f"x {_DIFFERENCE_GAIN:.0f}, 0 = grey")
    for axes, image, title in zip(column, (clean, attacked, difference), titles, strict=True):
        axes.imshow(np.clip(image, 0.0, 1.0).transpose(1, 2, 0), interpolation="nearest")
        axes.set_title(title, fontsize=10)


def _draw_maps(
    figure: Figure, column: NDArray[Any], name: str, clean: NDArray[np.float64], attacked: NDArray[np.float64]
) -> None:
    values = np.concatenate([clean.ravel(), attacked.ravel()])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    change = attacked - clean
    reach = float(np.nanmax(np.abs(change))) if np.isfinite(change).any() else 0.0
    top = column[0].imshow(clean, vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
    column[1].imshow(attacked, vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
    bottom = column[2].imshow(change, vmin=-reach, vmax=reach, cmap="RdBu_r", interpolation="nearest")
    column[0].set_title(name, fontsize=10)
    for picture, axes, ticks in (
        (top, list(column[:2]), (low, high)),
        (bottom, [column[2]], (-reach, reach)),
    ):
        bar = figure.colorbar(picture, ax=axes, location="bottom", shrink=0.85, aspect=14, pad=0.03)
        bar.set_ticks(sorted(set(ticks)), labels=[f"{tick:.2g}" for tick in sorted(set(ticks))])
        bar.ax.tick_params(labelsize=8)


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
    shares = []
    for name, position in thresholds.items():
        if not np.isfinite(position):
            continue
        axes.axvline(position, color="0.25", linewidth=1, linestyle="--")
        if first:
            axes.annotate(
                name,
                (position, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=9,
            )
        if len(scores):
            shares.append(f"{np.mean(scores > position):.1%}")
    if shares:
        axes.annotate(
            " / ".join(shares),
            (1.0, 0.5),
            xycoords="axes fraction",
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )
        if first:
            axes.annotate(
                "above\nthreshold",
                (1.0, 1.0),
                xycoords="axes fraction",
                xytext=(8, 0),
                textcoords="offset points",
                va="bottom",
                fontsize=9,
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


def _figure(width: float, height: float) -> Figure:
    # A Figure of its own, never pyplot: nothing global, no window, no backend to choose.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        # No date and no version inside: equal figures are equal files.
        figure.savefig(temporary, format="png", metadata={"Software": None})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
