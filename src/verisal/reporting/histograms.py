"""Figures of score distributions, coloured by what the images are: clean, attacked, or attacked in vain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from verisal.errors import DataError
from verisal.pictures import Canvas, Pixels, as_array, write_png
from verisal.reporting.words import in_words
from verisal.results import Histogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 120
# Inches: of the strips, of one of them, of the room for words above, to the right, below, and of a letter.
_WIDTH, _STRIP = 5.4, 0.72
_ABOVE, _RIGHT, _BELOW, _LETTER = 0.85, 1.6, 0.75, 0.088
_LEGEND = 0.6
# Share of a strip that its largest bar fills.
_FULL = 0.9


class _Fill(NamedTuple):
    """Words, colour and hatching of one kind of images."""

    words: str
    colour: str
    hatch: str


_FILLS: Final[Mapping[str, _Fill]] = {
    "clean": _Fill("clean", "#0072B2", ""),
    "benign": _Fill("changed or misclassified, not attacked", "#56B4E9", "..."),
    "attack": _Fill("attacked, the classifier was fooled", "#D55E00", ""),
    "failed": _Fill("attacked in vain", "#E8C7A9", "////"),
}
_UNKNOWN: Final = _Fill("", "0.55", "")


def draw_histograms(histogram: Histogram, path: Path, *, title: str) -> None:
    """Write :func:`histogram_pixels` as a PNG file.

    Args:
        histogram: groups of scores.
        path: PNG file to write.
        title: title of the figure.

    Raises:
        DataError: no group has a finite score.
    """
    if not any(np.isfinite(as_array(scores)).any() for scores in histogram.groups.values()):
        raise DataError(f"{path.name}: no finite score to draw in groups {list(histogram.groups)}")
    write_png(histogram_pixels(histogram, title=title), path)


def histogram_pixels(histogram: Histogram, *, title: str) -> Pixels:
    """Draw one strip per group on a shared axis, with the thresholds and the share of images beyond them.

    Groups of one role have one colour, clean ones stand first. Scores outside the middle 99 % of all scores
    count in the outermost bins, so that one wild score does not flatten the rest; scores that are not finite
    are left out and counted at the strip.

    Args:
        histogram: groups of scores, at least one of them finite.
        title: title of the figure.
    """
    roles, order = histogram.roles, list(_FILLS)
    names = sorted(histogram.groups, key=lambda name: order.index(roles[name]) if name in roles else -1)
    groups = {name: as_array(histogram.groups[name]).ravel() for name in names}
    finite = {name: scores[np.isfinite(scores)] for name, scores in groups.items()}
    marks = sorted((value, name) for name, value in histogram.thresholds.items() if np.isfinite(value))
    low, high = _range(np.concatenate(list(finite.values())), [value for value, _ in marks])
    edges = np.linspace(low, high, 41)
    left = max(1.6, 0.2 + _LETTER * max(len(in_words(name)) for name in groups))
    below = _BELOW + (_LEGEND if roles else 0.0)
    canvas = Canvas(left + _WIDTH + _RIGHT, _ABOVE + _STRIP * len(groups) + below, dpi=_DPI)
    # One for all strips, each a unit high: axes of their own take ten times as long to draw.
    axes = canvas.axes(left, _ABOVE, _WIDTH, _STRIP * len(groups))
    axes.set(xlim=(low, high), ylim=(0, len(groups)), yticks=[])
    axes.spines[["left", "right", "top"]].set_visible(False)
    for number, (name, scores) in enumerate(finite.items(), start=1):
        base, left_out = len(groups) - number, len(groups[name]) - len(scores)
        share = np.histogram(np.clip(scores, low, high), edges)[0] / max(len(scores), 1)
        fill = _FILLS[roles[name]] if name in roles else _UNKNOWN
        axes.stairs(
            base + _FULL * share / max(share.max(), 1e-9), edges, baseline=base, fill=True,
            facecolor=fill.colour, edgecolor="0.3", hatch=fill.hatch, linewidth=0.6,
        )  # fmt: skip
        axes.axhline(base, color="black", linewidth=0.8)
        counted = f"{in_words(name)}\nn = {len(scores)}" + (f", {left_out} not finite" if left_out else "")
        _note(axes, counted, (0.0, base + 0.5), offset=(-8, 0), va="center", ha="right", fontsize=10)
        if marks and len(scores):
            shares = " / ".join(f"{np.mean(scores > position):.1%}" for position, _ in marks)
            _note(axes, shares, (1.0, base + 0.5), offset=(8, 0), va="center")
    _draw_thresholds(axes, marks, top=len(groups))
    axes.set_xlabel(f"{histogram.x_label}\n(first and last bar: all beyond)", fontsize=11)
    _explain_colours(canvas, roles)
    canvas.figure.suptitle(title, fontsize=13, parse_math=False, y=1 - 0.12 / canvas.height, va="top")
    return canvas.pixels()


def _explain_colours(canvas: Canvas, roles: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    used = [fill for role, fill in _FILLS.items() if role in roles.values()]
    if used:
        patches = [
            Patch(facecolor=fill.colour, edgecolor="0.3", hatch=fill.hatch, label=fill.words) for fill in used
        ]
        canvas.figure.legend(handles=patches, loc="lower center", ncols=2, fontsize=10, frameon=False)


def _draw_thresholds(axes: Axes, marks: Sequence[tuple[float, str]], *, top: int) -> None:
    for number, (position, name) in enumerate(marks):
        axes.axvline(position, color="0.25", linewidth=1, linestyle="--")
        # Neighbours grow away from each other, so that close thresholds stay readable.
        side = "right" if number == 0 and len(marks) > 1 else "left" if number == len(marks) - 1 else "center"
        shift = {"right": -2.0, "left": 2.0, "center": 0.0}[side]
        _note(axes, f"alarm, {name}", (position, top), offset=(shift, 2), va="bottom", across="data", ha=side)
    if marks:
        words = "alarms\n" + " / ".join(name for _, name in marks)
        _note(axes, words, (1.0, top), offset=(8, 2), va="bottom")


def _note(
    axes: Axes,
    text: str,
    place: tuple[float, float],
    *,
    offset: tuple[float, float],
    va: str,
    ha: str = "left",
    across: str = "axes fraction",
    fontsize: int = 9,
) -> None:
    axes.annotate(
        text, place, xycoords=(across, "data"), xytext=offset, textcoords="offset points",
        va=va, ha=ha, fontsize=fontsize, parse_math=False,
    )  # fmt: skip


def _range(pooled: NDArray[np.float64], marks: Sequence[float]) -> tuple[float, float]:
    low, high = np.percentile(pooled, [0.5, 99.5])
    low, high = min([low, *marks]), max([high, *marks])
    margin = 0.02 * (high - low) or 0.5
    return float(low - margin), float(high + margin)
