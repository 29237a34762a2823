"""What ``verisal explain`` draws: one figure per image, and sheets of many images."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verisal.errors import DataError
from verisal.reporting._gallery import UNDEFINED_NOTE
from verisal.reporting.figures import write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Explanation", "draw_contact_sheet", "draw_explanation"]

_DPI = 100
# Inches: a picture, the space right of it, the margin, the title of a picture, the widths of bars and names.
_CELL, _GAP, _MARGIN, _TITLE, _SCALE, _BARS, _NAMES = 2.24, 0.14, 0.2, 0.5, 0.5, 1.3, 1.75
_SHEET_CELL, _SHEET_FOOT = 1.5, 0.62
_QUERY, _OTHER, _ALARM = "#D55E00", "#0072B2", "#C00000"


@final
@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One explained image.

    Attributes:
        name: of the image, its file as a rule.
        image: ``(3, H, W)`` in [0, 1].
        query: name of the class that is explained.
        disturbed: name of the class that was asked for to see whether the method invents evidence.
        saliency: ``(H, W)`` fused map for the query.
        disturbed_saliency: ``(H, W)`` fused map for the disturbed query.
        layers: stage name to ``(H, W)`` map for the query; empty where the method has no layers.
        classes: name and probability, likeliest first; the two classes that are asked for are among them.
        method: name of the method and what matters of its settings.
        verdict: what a detector says, or empty.
        alarm: whether it says that the image is adversarial.
    """

    name: str
    image: Tensor
    query: str
    disturbed: str
    saliency: Tensor
    disturbed_saliency: Tensor
    layers: Mapping[str, Tensor]
    classes: Sequence[tuple[str, float]]
    method: str
    verdict: str = ""
    alarm: bool = False


def draw_explanation(shown: Explanation, path: Path) -> None:
    """Draw image, maps and classes of one image.

    The maps of the two queries share one scale, so that a response to the wrong class is seen at its true
    size; every map of a layer runs from 0 to its own maximum, which stands above it.

    Args:
        shown: what is drawn.
        path: PNG file to write.
    """
    bars = _MARGIN + 3 * (_CELL + _GAP) + _SCALE + _NAMES
    width = max(bars + _BARS, len(shown.layers) * (_CELL + _GAP)) + 2 * _MARGIN
    words = [*([shown.verdict] if shown.verdict else []), *textwrap.wrap(_note(shown), width=int(width * 12))]
    head, foot = 0.42, 0.15 + 0.19 * len(words)
    rows = 2 if shown.layers else 1
    height = head + rows * (_TITLE + _CELL) + foot + 0.1
    figure = _figure(width, height)

    def place(column: int, row: int) -> Axes:
        left = _MARGIN + column * (_CELL + _GAP)
        top = height - head - row * (_TITLE + _CELL) - _TITLE
        return _picture(figure, (left, top - _CELL, _CELL, _CELL), (width, height))

    _show_image(place(0, 0), shown.image, "image")
    maps = [_shown(shown.saliency), _shown(shown.disturbed_saliency)]
    most = max(_top(values) for values in maps) or 1.0
    titles = (f"map for\n{_short(shown.query)}", f"disturbed: map for\n{_short(shown.disturbed)}")
    for column, (values, title, colour) in enumerate(zip(maps, titles, (_QUERY, _OTHER), strict=True), 1):
        _show_map(place(column, 0), values, title, most, colour=colour)
    right = _MARGIN + 3 * (_CELL + _GAP)
    base = height - head - _TITLE - _CELL
    _draw_scale(figure, (right, base, 0.14, _CELL), (width, height), most)
    _draw_classes(figure, (bars, base, _BARS, _CELL), (width, height), shown)
    for column, (name, map_) in enumerate(shown.layers.items()):
        values = _shown(map_)
        top = _top(values)
        _show_map(place(column, 1), values, f"{name}\nup to {top:.2g}", top or 1.0)
    figure.text(_MARGIN / width, 1 - 0.1 / height, _clipped(shown.name, 90), va="top", fontsize=13)
    for line, text in enumerate(reversed(words)):
        colour = (_ALARM if shown.alarm else "black") if text == shown.verdict else "0.3"
        place_y = (0.1 + 0.19 * line) / height
        figure.text(_MARGIN / width, place_y, text, va="bottom", fontsize=10, color=colour)
    write_png(_pixels(figure), path)


def draw_contact_sheet(shown: Sequence[Explanation], path: Path, *, columns: int = 3) -> None:
    """Draw many images beside their maps, each map from 0 to its own maximum, names under the pictures.

    Args:
        shown: what is drawn.
        path: PNG file to write.
        columns: pairs of image and map in one row.

    Raises:
        DataError: nothing to draw.
    """
    if not shown:
        raise DataError(f"{path.name}: no images to draw")
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    across, down = 2 * _SHEET_CELL + 0.05 + 0.25, _SHEET_CELL + _SHEET_FOOT
    width, height = 2 * _MARGIN + columns * across - 0.25, _MARGIN + rows * down + 0.3
    figure = _figure(width, height)
    for number, one in enumerate(shown):
        left = _MARGIN + number % columns * across
        bottom = height - _MARGIN - number // columns * down - _SHEET_CELL
        cells = [(left + step * (_SHEET_CELL + 0.05), bottom, _SHEET_CELL, _SHEET_CELL) for step in (0, 1)]
        _show_image(_picture(figure, cells[0], (width, height)), one.image, "")
        values = _shown(one.saliency)
        _show_map(_picture(figure, cells[1], (width, height)), values, "", _top(values) or 1.0)
        probability = dict(one.classes).get(one.query, float("nan"))
        lines = (_clipped(one.name, 38), _clipped(f"{one.query} {probability:.2f}", 38), one.verdict)
        for line, (text, style) in enumerate(zip(lines, ("black", "0.3", "0.3"), strict=True)):
            colour = _ALARM if line == 2 and one.alarm else style
            place_y = (bottom - 0.04 - 0.17 * line) / height
            figure.text(left / width, place_y, _clipped(text, 40), va="top", fontsize=9, color=colour)
    note = "Each map runs from 0 to its own maximum." + _undefined_note([one.saliency for one in shown])
    figure.text(_MARGIN / width, 0.08 / height, note, va="bottom", fontsize=9, color="0.3")
    write_png(_pixels(figure), path)


def _note(shown: Explanation) -> str:
    shared = (
        "The two maps in the upper row share one scale: evidence for a class that is not there is invented."
    )
    layers = " Each layer's map runs from 0 to its own maximum." if shown.layers else ""
    undefined = _undefined_note([shown.saliency, shown.disturbed_saliency, *shown.layers.values()])
    return f"{shown.method}. {shared}{layers}{undefined}"


def _undefined_note(maps: Sequence[Tensor]) -> str:
    return "" if all(bool(one.isfinite().all()) for one in maps) else f" {UNDEFINED_NOTE}"


def _show_image(axes: Axes, image: Tensor, title: str) -> None:
    pixels = image.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    axes.imshow(pixels, interpolation="nearest")
    axes.set_title(title, fontsize=11, pad=4)


def _show_map(
    axes: Axes, values: NDArray[np.float64], title: str, most: float, *, colour: str = "black"
) -> None:
    axes.imshow(values, vmin=0.0, vmax=most, cmap="viridis", interpolation="nearest")
    axes.set_title(title, fontsize=11, pad=4, color=colour)


def _draw_scale(
    figure: Figure, box: tuple[float, float, float, float], size: tuple[float, float], most: float
) -> None:
    axes = _picture(figure, box, size)
    axes.set_axis_on()
    axes.imshow(np.linspace(1.0, 0.0, 128)[:, None], cmap="viridis", aspect="auto", extent=(0, 1, 0, most))
    axes.set_xticks([])
    axes.set_yticks([0.0, most], labels=["0", f"{most:.2g}"], fontsize=9)
    axes.yaxis.tick_right()


def _draw_classes(
    figure: Figure, box: tuple[float, float, float, float], size: tuple[float, float], shown: Explanation
) -> None:
    axes = _picture(figure, box, size)
    axes.set_axis_on()
    asked = {shown.query: _QUERY, shown.disturbed: _OTHER}
    places = np.arange(len(shown.classes))
    colours = [asked.get(name, "0.7") for name, _ in shown.classes]
    axes.barh(places, [share for _, share in shown.classes], color=colours, height=0.7)
    for place, (_, share) in enumerate(shown.classes):
        # Inside a long bar, so that it never leaves the axes.
        inside = share > 0.7
        axes.text(
            share - 0.02 if inside else share + 0.02,
            place,
            _percent(share),
            ha="right" if inside else "left",
            va="center",
            fontsize=9,
            color="white" if inside and shown.classes[place][0] in asked else "black",
        )
    axes.set_yticks(places, labels=[_short(name) for name, _ in shown.classes], fontsize=10)
    for label, (name, _) in zip(axes.get_yticklabels(), shown.classes, strict=True):
        label.set_color(asked.get(name, "black"))
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(len(shown.classes) - 0.5, -0.5)
    axes.set_xticks([0.0, 1.0], labels=["0", "1"], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("probability", fontsize=11, pad=4)


def _percent(share: float) -> str:
    if share >= 0.0995:
        return f"{share:.0%}"
    return f"{share:.1%}" if share >= 0.0005 else "< 0.1%"


def _short(name: str) -> str:
    return _clipped(name, 22)


def _clipped(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _shown(map_: Tensor) -> NDArray[np.float64]:
    """Not negative; NaN where there is no number."""
    values = map_.detach().cpu().double().clamp_min(0.0)
    return np.asarray(values.where(values.isfinite(), torch.nan).numpy(), dtype=np.float64)


def _top(values: NDArray[np.float64]) -> float:
    """The largest number, 0 where there is none."""
    return float(np.nan_to_num(values).max())


def _figure(width: float, height: float) -> Figure:
    # A Figure of its own, never pyplot: nothing global, no window, no backend to choose.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI)


def _picture(figure: Figure, box: tuple[float, float, float, float], size: tuple[float, float]) -> Axes:
    """Axes without frame at a place in inches: left, bottom, width, height."""
    left, bottom, width, height = box
    axes = figure.add_axes((left / size[0], bottom / size[1], width / size[0], height / size[1]))
    axes.set_axis_off()
    return axes


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    # Names of files and classes are no formulas, whatever dollars are in them.
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]  # matplotlib has not typed its canvas
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])  # type: ignore[no-untyped-call]
