"""The gallery: maps of several methods side by side, for a few images."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from verisal.errors import DataError
from verisal.reporting.figures import write_png

__all__ = ["UNDEFINED_NOTE", "draw_gallery"]

# Pixels: side of a panel (64 px images at twice their size), space between panels, around all of them, above
# a line of methods for their names, and under a panel for its caption.
_PANEL, _GAP, _EDGE, _NAMES, _CAPTION = 128, 6, 10, 46, 26
_NOTE = "Each map runs from 0 to its own maximum: brightness does not compare between panels."
_NAME_LETTERS = 15
UNDEFINED_NOTE = "White: no number."
# Of a map, and of the whole file. Noisy maps in all shades would be most of it, and at this size the eye does
# not tell them apart.
_SHADES, _COLOURS = 24, 96


def draw_gallery(
    images: Tensor, maps: Mapping[str, Tensor], path: Path, *, captions: Sequence[str], columns: int = 9
) -> None:
    """Draw every image beside the maps of every method, each map from 0 to its own maximum.

    Methods that find no place in one line go on in the next, which starts with the images again.

    Args:
        images: ``(N, 3, H, W)`` in [0, 1], one row each.
        maps: name of the method to ``(N, 1, H, W)``, not negative.
        path: PNG file to write.
        captions: N texts, one under each image.
        columns: most methods in one line.

    Raises:
        DataError: no image, no method, or maps or captions that do not fit the images.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _check(images, maps, captions)
    names = list(maps)
    lines = [names[start : start + columns] for start in range(0, len(names), columns)]
    across, down = _PANEL + _GAP, _PANEL + _CAPTION
    block = _NAMES + len(images) * down
    width = 2 * _EDGE + (1 + len(lines[0])) * across - _GAP
    whole = all(bool(values.isfinite().all()) for values in maps.values())
    note = textwrap.wrap(_NOTE if whole else f"{_NOTE} {UNDEFINED_NOTE}", width // 8)
    height = len(lines) * block + 10 + 18 * len(note)
    canvas = np.full((height, width, 3), 255, np.uint8)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)

    def write(text: str, column: int, top: int, **style: object) -> None:
        middle = _EDGE + column * across + _PANEL / 2
        figure.text(middle / width, 1 - top / height, text, ha="center", **style)  # type: ignore[arg-type]

    for number, line in enumerate(lines):
        top = number * block + _NAMES
        for column, name in enumerate(["image", *line]):
            write(_in_lines(name), column, top - 5, va="bottom", fontsize=11, linespacing=1.0)
            panels = _pictures(images) if column == 0 else _shades(maps[name])
            for row, panel in enumerate(panels):
                y, x = top + row * down, _EDGE + column * across
                canvas[y : y + _PANEL, x : x + _PANEL] = panel
        for row, caption in enumerate(captions):
            write(caption, 0, top + row * down + _PANEL + 4, va="top", fontsize=11)
    style = {"ha": "center", "va": "bottom", "fontsize": 10.5, "color": "0.35"}
    figure.text(0.5, 8 / height, "\n".join(note), **style)  # type: ignore[arg-type]
    figure.figimage(canvas, zorder=-1)
    agg = FigureCanvasAgg(figure)
    agg.draw()  # type: ignore[no-untyped-call]  # matplotlib has not typed its canvas
    pixels = np.asarray(agg.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    write_png(np.ascontiguousarray(pixels), path, colours=_COLOURS)


def _check(images: Tensor, maps: Mapping[str, Tensor], captions: Sequence[str]) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or len(images) == 0:
        raise DataError(f"a gallery needs images (N, 3, H, W), at least one; found {tuple(images.shape)}")
    if not maps:
        raise DataError("a gallery needs the maps of at least one method, found none")
    expected = (len(images), 1, *images.shape[2:])
    for name, values in maps.items():
        if tuple(values.shape) != expected:
            raise DataError(f"maps of {name} must be {expected}, found {tuple(values.shape)}")
    if len(captions) != len(images):
        raise DataError(f"a gallery needs one caption per image, found {len(captions)} for {len(images)}")


def _in_lines(name: str) -> str:
    """The name over several lines, broken between words or where a new word starts with a capital."""
    lines = [""]
    for word in re.split(r"(?<=[a-z])(?=[A-Z])|(?<=\s)", name):
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > _NAME_LETTERS:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.strip() for line in lines)


def _pictures(images: Tensor) -> list[NDArray[np.uint8]]:
    levels = images.detach().mul(255).round().clamp(0, 255).permute(0, 2, 3, 1).cpu().numpy()
    return [_enlarged(image.astype(np.uint8)) for image in levels]


def _shades(maps: Tensor) -> list[NDArray[np.uint8]]:
    from matplotlib import colormaps

    # White where there is no number.
    palette = colormaps["viridis"].resampled(_SHADES).with_extremes(bad="white")
    shown = []
    for one in maps.detach()[:, 0].cpu().double().clamp_min(0).numpy():
        values = np.ma.masked_invalid(one)
        top = float(values.max()) if values.count() else 0.0
        colours = palette(values / top if top > 0 else values, bytes=True)
        shown.append(_enlarged(np.asarray(colours)[..., :3]))
    return shown


def _enlarged(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(H, W, 3)`` at the panel's size, every pixel shown by the nearest."""
    rows, columns = (np.arange(_PANEL) * length // _PANEL for length in picture.shape[:2])
    panel: NDArray[np.uint8] = picture[rows[:, None], columns]
    return panel
