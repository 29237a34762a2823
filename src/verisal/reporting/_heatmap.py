"""Tables of numbers as pictures."""

from __future__ import annotations

import textwrap

import numpy as np
from numpy.typing import NDArray

from verisal.results import Heatmap

__all__ = ["heatmap_pixels"]

_DPI = 100
_CELL_WIDTH, _CELL_HEIGHT = 0.78, 0.34
_LETTER = 0.085


def heatmap_pixels(heatmap: Heatmap) -> NDArray[np.uint8]:
    """Draw a table with every number in its cell, as ``(H, W, 3)`` uint8 pixels.

    Args:
        heatmap: names and numbers.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    values = np.asarray(heatmap.values.detach().cpu().double().numpy())
    lines, columns = values.shape
    left = 0.5 + _LETTER * max(len(name) for name in heatmap.rows)
    top = 0.75 + 0.72 * _LETTER * max(len(name) for name in heatmap.columns)
    # Slanted names start over the middle of their column and lean beyond the last one.
    right = max(
        0.2 + 0.72 * _LETTER * len(name) - (columns - place - 0.5) * _CELL_WIDTH
        for place, name in enumerate(heatmap.columns)
    )
    width = max(left + columns * _CELL_WIDTH + max(right, 0.1), 4.5, 0.1 * len(heatmap.title))
    caption = textwrap.wrap(heatmap.caption, width=int(width * 12))
    bottom = 0.2 + 0.17 * len(caption)
    height = top + lines * _CELL_HEIGHT + bottom
    # A Figure of its own, never pyplot: nothing global, no window, no backend to choose.
    figure = Figure(figsize=(width, height), dpi=_DPI)
    axes = figure.add_axes(
        (left / width, bottom / height, columns * _CELL_WIDTH / width, lines * _CELL_HEIGHT / height)
    )
    low, high = heatmap.limits
    axes.imshow(values, vmin=low, vmax=high, cmap="viridis", aspect="auto")
    for (line, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            dark = value < low + 0.6 * (high - low)
            colour = "white" if dark else "black"
            axes.text(column, line, f"{value:.3f}", ha="center", va="center", fontsize=9, color=colour)
    if heatmap.marked is not None:
        for line, column in heatmap.marked.nonzero().tolist():
            frame = Rectangle(
                (column - 0.47, line - 0.45), 0.94, 0.9, fill=False, edgecolor="#D55E00", linewidth=2
            )
            axes.add_patch(frame)
    axes.set_xticks(range(columns), labels=heatmap.columns, rotation=45, ha="left", fontsize=9)
    axes.set_yticks(range(lines), labels=heatmap.rows, fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_ylabel(heatmap.row_label, fontsize=9)
    axes.spines[:].set_visible(False)
    figure.text(0.5, 1 - 0.08 / height, heatmap.title, ha="center", va="top", fontsize=11)
    figure.text(0.5, 1 - 0.3 / height, heatmap.column_label, ha="center", va="top", fontsize=9)
    figure.text(0.5, 0.08 / height, "\n".join(caption), ha="center", va="bottom", fontsize=8)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib has not typed its canvas
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(pixels[..., :3])
