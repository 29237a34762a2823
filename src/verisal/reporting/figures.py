"""Figures of a report that show pictures: tables of numbers, and panels of images with their maps."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verisal.pictures import (
    COLOUR_SCALE,
    Canvas,
    Pixels,
    as_array,
    displayed,
    greatest,
    largest,
    overlaid,
    picked,
)
from verisal.reporting.words import in_words
from verisal.results import Heatmap, MaskPanel, SaliencyPanel

_DPI = 120
_DIFFERENCE_GAIN = 10.0
# Inches of a panel of masks: a picture, the space right of it, the left margin, the room of a colour scale.
_CELL, _GAP, _MARGIN, _BAR = 1.6, 0.2, 0.45, 0.45


def heatmap_pixels(heatmap: Heatmap) -> Pixels:
    """Draw a table with every number in its cell, as ``(H, W, 3)`` uint8 pixels.

    Args:
        heatmap: names and numbers.
    """
    from matplotlib.patches import Rectangle

    across, down, letter = 0.78, 0.34, 0.085
    values = as_array(heatmap.values)
    lines, columns = values.shape
    names = [[in_words(name) for name in axis] for axis in (heatmap.rows, heatmap.columns)]
    left = 0.5 + letter * max(map(len, names[0]))
    top = 0.75 + 0.72 * letter * max(map(len, names[1]))
    # Slanted names start over the middle of their column and lean beyond the last one.
    right = max(
        0.2 + 0.72 * letter * len(name) - (columns - place - 0.5) * across
        for place, name in enumerate(names[1])
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
    words: dict[str, Any] = {"fontsize": 9, "parse_math": False}
    axes.set_xticks(range(columns), labels=names[1], rotation=45, ha="left", **words)
    axes.set_yticks(range(lines), labels=names[0], **words)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_ylabel(heatmap.row_label, fontsize=9)
    axes.spines[:].set_visible(False)
    canvas.text(width / 2, 0.08, heatmap.title, ha="center", va="top", fontsize=11)
    canvas.text(width / 2, 0.3, heatmap.column_label, ha="center", va="top", fontsize=9)
    canvas.text(width / 2, height - 0.08, "\n".join(caption), ha="center", va="bottom", fontsize=8)
    return canvas.pixels()


def saliency_panel_pixels(panel: SaliencyPanel) -> Pixels:
    """Draw an image and its maps, each from 0 to its own maximum, as ``(H, W, 3)`` uint8 pixels.

    The largest value stands above each map, for the scales differ. Values that are not finite are left white.
    Further images are drawn as they are. Maps are drawn over the image where the panel has an opacity, and
    alone below where all of them find room in one line.

    Args:
        panel: image and maps.
    """
    cell, gap, margin, most_columns, letters = 1.5, 0.1, 0.15, 7, 24
    cells = 1 + len(panel.maps)
    names = {name: textwrap.wrap(in_words(name), letters) for name in panel.maps}
    # Name and largest value.
    title = 0.16 * (1 + max(map(len, names.values()), default=1)) + 0.04
    columns, lines = min(cells, most_columns), -(-cells // most_columns)
    over = panel.opacity > 0 and any(values.ndim == 2 for values in panel.maps.values())
    alone = over and lines == 1
    width = 2 * margin + columns * (cell + gap)
    caption = textwrap.wrap(f"{panel.image_id}: {panel.caption}", width=int(width * 12))
    height = margin + lines * (cell + title + gap) + alone * (cell + gap) + 0.2 * len(caption) + 0.15
    canvas = Canvas(width, height)
    for place, (name, values) in enumerate([("image", panel.image), *panel.maps.items()]):
        left = margin + place % columns * (cell + gap)
        top = margin + place // columns * (cell + title + gap) + title
        words, size = name, 9
        shown: Tensor | Pixels = values
        if place:
            scale = [greatest(as_array(values))] if values.ndim == 2 else []
            words, size = "\n".join([*names[name], *scale]), 8
        if over and values.ndim == 2:
            shown = overlaid(panel.image[None], values[None, None], opacity=panel.opacity)[0]
            if alone:
                canvas.picture((left, top + cell + gap, cell, cell), values)
        canvas.picture((left, top, cell, cell), shown, title=words, fontsize=size, pad=3)
    canvas.text(width / 2, height - 0.07, "\n".join(caption), ha="center", va="bottom", fontsize=9)
    return canvas.pixels()


def panel_pixels(panel: MaskPanel) -> Pixels:
    """Draw one attacked image and its maps beside its clean self, as ``(H, W, 3)`` uint8 pixels.

    Rows are clean, attacked, and attacked minus clean; columns are the image, the raw map of every stage, and
    the fused map, alone and over the image. The two maps of a column share one scale. The image difference
    is drawn ten times as large, around mid grey; the difference of maps in red (more than clean) and blue
    (less).

    Args:
        panel: pictures of one image.
    """
    maps = [(name, panel.clean_layers[name], panel.attacked_layers[name]) for name in panel.clean_layers]
    maps.append(("fused", panel.clean_fused, panel.attacked_fused))
    columns = len(maps) + 1
    width = _MARGIN + (_CELL + _GAP) * (columns + (panel.opacity > 0))
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
    if panel.opacity > 0:
        for row, picture in enumerate(_overlays(panel, torch.stack([clean, attacked]))):
            title = "" if row else "fused, over the image"
            canvas.picture(_place(columns, row), picture, title=title, framed=True)
    head = f"{in_words(panel.attack)}, image {panel.image_id}"
    canvas.text(width / 2, 0.12, head, ha="center", va="top", fontsize=12)
    canvas.text(width / 2, height - 0.1, "\n".join(caption), ha="center", va="bottom", fontsize=10)
    return canvas.pixels()


def _overlays(panel: MaskPanel, images: Tensor) -> Iterator[Pixels]:
    """The fused maps over the clean and the attacked image, on one scale, and their difference."""
    maps = torch.stack([panel.clean_fused, panel.attacked_fused])[:, None]
    most = largest(as_array(maps))
    yield from overlaid(images, maps, opacity=panel.opacity, end=lambda _: most)
    change = (panel.attacked_fused - panel.clean_fused)[None, None]
    yield overlaid(images[1:], change, opacity=panel.opacity, end=largest, signed=True)[0]


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
