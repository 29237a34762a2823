"""Pictures of studies: maps by setting, and tables too large for a number in every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from verisal.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["map_table_pixels", "matrices_pixels"]

_DPI = 100
_WIDTH = 9.0
_LETTER = 0.078


def map_table_pixels(
    image: Tensor, rows: Mapping[str, Mapping[str, Tensor]], *, title: str, caption: str
) -> NDArray[np.uint8]:
    """Maps of one image, each from 0 to its own maximum, as ``(H, W, 3)`` uint8 pixels.

    Args:
        image: ``(3, H, W)`` in [0, 1], in the corner.
        rows: name of the row to column to ``(H, W)`` map, the same columns in all.
        title: what is shown.
        caption: how to read it.

    Raises:
        DataError: no rows.
    """
    if not rows:
        raise DataError("a figure of maps needs at least one row, found none")
    columns = list(next(iter(rows.values())))
    left = 0.95
    cell = (_WIDTH - left) / len(columns)
    top = 0.4 + max(0.25 + 0.75 * _LETTER * max(len(name) for name in columns), cell + 0.08)
    height = top + cell * len(rows) + 0.3
    figure = _figure(_WIDTH, height)
    corner = figure.add_axes((0.06 / _WIDTH, 1 - (top - 0.06) / height, 0.8 / _WIDTH, 0.8 / height))
    corner.imshow(image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy(), interpolation="nearest")
    corner.set_axis_off()
    for line, (name, maps) in enumerate(rows.items()):
        for place, column in enumerate(columns):
            values = maps[column].detach().cpu().double().numpy()
            box = (left + place * cell, top + (line + 1) * cell, cell - 0.04, cell - 0.04)
            axes = figure.add_axes(
                (box[0] / _WIDTH, 1 - (box[1] - 0.04) / height, box[2] / _WIDTH, box[3] / height)
            )
            axes.imshow(
                values, vmin=0.0, vmax=float(values.max()) or 1.0, cmap="viridis", interpolation="nearest"
            )
            axes.set_axis_off()
            if line == 0:
                figure.text(
                    (left + (place + 0.3) * cell) / _WIDTH,
                    1 - (top - 0.04) / height,
                    column,
                    rotation=45,
                    rotation_mode="anchor",
                    ha="left",
                    va="bottom",
                    fontsize=9,
                )
        figure.text(
            (left - 0.08) / _WIDTH, 1 - (top + (line + 0.5) * cell) / height, name, ha="right", va="center",
            fontsize=10,
        )  # fmt: skip
    figure.text(0.5, 1 - 0.06 / height, title, ha="center", va="top", fontsize=12)
    figure.text(0.5, 0.06 / height, caption, ha="center", va="bottom", fontsize=9)
    return _pixels(figure)


def matrices_pixels(
    matrices: Mapping[str, Tensor],
    names: Sequence[str],
    *,
    title: str,
    labels: tuple[str, str],
    scale: str,
    limits: tuple[float, float],
) -> NDArray[np.uint8]:
    """Square tables side by side on one colour scale, as ``(H, W, 3)`` uint8 pixels.

    Args:
        matrices: title to ``(N, N)``; NaN is left white.
        names: of the N rows and columns.
        title: what is shown.
        labels: what rows and columns are.
        scale: title of the colour scale; which end is good.
        limits: values at its ends. Limits around 0 get colours that part at 0.

    Raises:
        DataError: no matrices.
    """
    if not matrices:
        raise DataError("a figure of tables needs at least one, found none")
    count = len(matrices)
    longest = _LETTER * max(len(name) for name in names)
    left, gap, right = 0.45 + longest, 0.2, 1.1
    side = min(6.6, (_WIDTH - left - right - gap * (count - 1)) / count)
    width = left + count * side + gap * (count - 1) + right
    top, bottom = 0.75, 0.35 + 0.9 * longest
    height = top + side + bottom
    figure = _figure(width, height)
    colours = "RdBu" if limits[0] < 0 < limits[1] else "viridis"
    shown = None
    for place, (name, values) in enumerate(matrices.items()):
        axes = figure.add_axes(
            ((left + place * (side + gap)) / width, bottom / height, side / width, side / height)
        )
        shown = axes.imshow(
            values.detach().cpu().double().numpy(),
            vmin=limits[0],
            vmax=limits[1],
            cmap=colours,
            interpolation="nearest",
        )
        axes.set_title(name, fontsize=10)
        axes.set_xticks(range(len(names)), labels=names, rotation=90, fontsize=9)
        axes.set_yticks(range(len(names)), labels=names if place == 0 else [], fontsize=9)
        axes.tick_params(length=0, pad=2)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(labels[1], fontsize=10)
        if place == 0:
            axes.set_ylabel(labels[0], fontsize=10)
    bar = figure.add_axes(((width - right + 0.15) / width, bottom / height, 0.16 / width, side / height))
    if shown is not None:
        figure.colorbar(shown, cax=bar).set_label(scale, fontsize=10)
    bar.tick_params(labelsize=9)
    figure.text(0.5, 1 - 0.08 / height, title, ha="center", va="top", fontsize=12)
    return _pixels(figure)


def _figure(width: float, height: float) -> Figure:
    # A Figure of its own, never pyplot: nothing global, no window, no backend to choose.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI)


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib has not typed its canvas
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(pixels[..., :3])
