"""Scores with their intervals, side by side, one line a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from verisal.errors import DataError
from verisal.results import Score

__all__ = ["interval_pixels"]

# Colours that colour-blind readers tell apart (Okabe and Ito), and marks for print.
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000")
_MARKS: Final = ("o", "s", "^", "D", "v")
_DPI: Final = 100


def interval_pixels(
    panels: Mapping[str, Mapping[str, Mapping[str, Score]]],
    *,
    title: str,
    reference: float | None = None,
) -> NDArray[np.uint8]:
    """Draw one panel per score with a mark and a 95 % interval per line and series, as ``(H, W, 3)`` uint8.

    Panels share their lines, each has a scale of its own. A score without a value is left out; one without an
    interval is a mark alone.

    Args:
        panels: title of the panel to line to series to score; all panels have the same lines.
        title: what is shown and which end is good.
        reference: where to draw an upright line, e.g. at no difference; None for nowhere.

    Raises:
        DataError: nothing to draw, or panels of different lines.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = list(next(iter(panels.values()), {}))
    if not lines or any(list(panel) != lines for panel in panels.values()):
        raise DataError(
            f"panels must be at least one and share their lines, found {list(panels)} and {lines}"
        )
    series = list(
        dict.fromkeys(name for panel in panels.values() for line in panel.values() for name in line)
    )
    height = 1.2 + 0.12 * len(series) + len(lines) * (0.16 + 0.12 * len(series))
    figure = Figure(figsize=(9.0, height), dpi=_DPI, layout="constrained")
    for axes, (name, panel) in zip(
        np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels.items(), strict=True
    ):
        if reference is not None:
            axes.axvline(reference, color="0.45", linewidth=1, linestyle="--")
        for number, one in enumerate(series):
            shift = (number - (len(series) - 1) / 2) * 0.7 / len(series)
            drawn = [
                (place + shift, panel[line][one]) for place, line in enumerate(lines) if one in panel[line]
            ]
            drawn = [(place, score) for place, score in drawn if score.value == score.value]
            axes.errorbar(
                [score.value for _, score in drawn],
                [place for place, _ in drawn],
                xerr=np.array([_reach(score) for _, score in drawn]).reshape(-1, 2).T,
                fmt=_MARKS[number % len(_MARKS)],
                color=_COLOURS[number % len(_COLOURS)],
                markersize=4.5,
                linewidth=1.4,
                label=one,
            )
        axes.set_title(name, fontsize=10)
        axes.set_yticks(range(len(lines)), labels=lines, fontsize=10)
        axes.set_ylim(len(lines) - 0.5, -0.5)
        axes.tick_params(axis="x", labelsize=9)
        axes.grid(visible=True, axis="x", color="0.92")
        axes.set_axisbelow(True)
    figure.suptitle(title, fontsize=11)
    if len(series) > 1:
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=10, frameon=False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib has not typed its canvas
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(pixels[..., :3])


def _reach(score: Score) -> tuple[float, float]:
    if score.ends is None:
        return 0.0, 0.0
    return max(0.0, score.value - score.low), max(0.0, score.high - score.value)
