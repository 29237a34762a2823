"""Maps for people to look at: one explained image, sheets of many, and the gallery of several methods."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from verisal._brief import brief
from verisal._plain import plain
from verisal.errors import DataError
from verisal.pictures import (
    COLOUR_SCALE,
    OPACITY,
    Canvas,
    Pixels,
    as_array,
    brightest,
    few_shades,
    image_pixels,
    largest,
    map_pixels,
    overlaid,
)

# Inches: a picture, the space right of it, the margin, the title of a picture, the widths of bars and names.
_CELL, _GAP, _MARGIN, _TITLE, _SCALE, _BARS, _NAMES = 2.24, 0.14, 0.2, 0.5, 0.5, 1.3, 1.75
_QUERY, _OTHER, _ALARM = "#D55E00", "#0072B2", "#C00000"
_UNDEFINED = " White: no number."
# Pixels of the gallery: side of a panel (64 px images at twice their size), space between panels, around all
# of them, above a line of methods for their names, and under a panel for its caption.
_PANEL, _SPACE, _EDGE, _HEAD, _CAPTION = 128, 6, 10, 46, 26
_LETTERS = 15
# Of a file: of maps, and of maps over images, which mix into many more.
_COLOURS, _OVER_IMAGES = 96, 40


@final
@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One explained image.

    Attributes:
        name: of the image, its file as a rule.
        image: ``(C, H, W)`` in [0, 1].
        query: name of the class that is explained.
        disturbed: name of the class that was asked for to see whether the method invents evidence; empty
            where there is no other.
        saliency: ``(H, W)`` fused map for the query.
        disturbed_saliency: ``(H, W)`` fused map for the disturbed query, if there is one.
        layers: stage name to ``(H, W)`` map for the query; empty where the method has no layers.
        classes: name and probability, likeliest first; the two classes that are asked for are among them.
        method: name of the method and what matters of its settings.
        verdict: what a detector says, or empty.
        alarm: True if it says that the image is adversarial.
    """

    name: str
    image: Tensor
    query: str
    disturbed: str
    saliency: Tensor
    disturbed_saliency: Tensor | None
    layers: Mapping[str, Tensor]
    classes: Sequence[tuple[str, float]]
    method: str
    verdict: str = ""
    alarm: bool = False

    __repr__ = brief


def draw_explanation(shown: Explanation, path: Path, *, opacity: float = OPACITY) -> None:
    """Draw image, maps and classes of one image.

    The maps of the two queries share one scale, so that a response to the wrong class is seen at its true
    size; every map of a layer runs from 0 to its own maximum, which stands above it.

    Args:
        shown: what is drawn.
        path: PNG file to write.
        opacity: of the map for the query over the image, in [0, 1]; 0 for no such picture.
    """
    asked = [("map for", shown.query, shown.saliency, _QUERY)]
    if shown.disturbed_saliency is not None:
        asked.append(("disturbed: map for", shown.disturbed, shown.disturbed_saliency, _OTHER))
    most = max(largest(as_array(values)) for _, _, values, _ in asked) or 1.0
    pictures: list[tuple[str, Tensor | Pixels, str]] = [("image", shown.image, "black")]
    if opacity > 0:
        # As in the maps, a weak map stays pale beside a strong one of the other query.
        end = max(brightest(as_array(values)) for _, _, values, _ in asked)
        maps = shown.saliency[None, None]
        over = overlaid(shown.image[None], maps, opacity=opacity, end=lambda _: end)[0]
        pictures.append((f"over the image:\n{_clipped(shown.query, 22)}", over, _QUERY))
    for words, name, values, colour in asked:
        pictures.append((f"{words}\n{_clipped(name, 22)}", values, colour))
    beside = _MARGIN + len(pictures) * (_CELL + _GAP)
    bars = beside + _SCALE + _NAMES
    width = max(bars + _BARS, len(shown.layers) * (_CELL + _GAP)) + 2 * _MARGIN
    note = textwrap.wrap(_note(shown), width=int(width * 12))
    head, foot = 0.42, 0.15 + 0.19 * (len(note) + bool(shown.verdict))
    rows = 2 if shown.layers else 1
    canvas = Canvas(width, head + rows * (_TITLE + _CELL) + foot + 0.1)

    def place(column: int, row: int) -> tuple[float, float, float, float]:
        return _MARGIN + column * (_CELL + _GAP), head + row * (_TITLE + _CELL) + _TITLE, _CELL, _CELL

    for column, (title, picture, colour) in enumerate(pictures):
        canvas.picture(place(column, 0), picture, title=title, limits=(0.0, most), color=colour)
    top = head + _TITLE
    scale = canvas.axes(beside, top, 0.14, _CELL)
    scale.imshow(
        np.linspace(1.0, 0.0, 128)[:, None], cmap=COLOUR_SCALE, aspect="auto", extent=(0, 1, 0, most)
    )
    scale.set_xticks([])
    scale.set_yticks([0.0, most], labels=["0", f"{most:.2g}"], fontsize=9)
    scale.yaxis.tick_right()
    _draw_classes(canvas, (bars, top, _BARS, _CELL), shown)
    for column, (name, values) in enumerate(shown.layers.items()):
        canvas.picture(place(column, 1), values, title=f"{name}\nup to {largest(as_array(values)):.2g}")
    canvas.text(_MARGIN, 0.1, _clipped(shown.name, 90), va="top", fontsize=13)
    verdict = [(shown.verdict, _ALARM if shown.alarm else "black")] if shown.verdict else []
    lines = [*verdict, *((words, "0.3") for words in note)]
    for line, (words, colour) in enumerate(reversed(lines)):
        canvas.text(_MARGIN, canvas.height - 0.1 - 0.19 * line, words, va="bottom", fontsize=10, color=colour)
    canvas.save(path)


def draw_contact_sheet(
    shown: Sequence[Explanation], path: Path, *, columns: int = 3, opacity: float = OPACITY
) -> None:
    """Draw many images beside their maps, each map from 0 to its own maximum, names under the pictures.

    Args:
        shown: what is drawn.
        path: PNG file to write.
        columns: pairs of image and map in one row.
        opacity: of the maps over the images, in [0, 1]; 0 for the maps alone.

    Raises:
        DataError: nothing to draw.
    """
    if not shown:
        raise DataError(f"{path.name}: no images to draw")
    cell, columns = 1.5, min(columns, len(shown))
    across, down = 2 * cell + 0.05 + 0.25, cell + 0.62
    canvas = Canvas(2 * _MARGIN + columns * across - 0.25, _MARGIN + -(-len(shown) // columns) * down + 0.3)
    for number, item in enumerate(shown):
        left, top = _MARGIN + number % columns * across, _MARGIN + number // columns * down
        canvas.picture((left, top, cell, cell), item.image)
        values: Tensor | Pixels = item.saliency
        if opacity > 0:
            maps = item.saliency[None, None]
            values = overlaid(item.image[None], maps, opacity=opacity)[0]
        canvas.picture((left + cell + 0.05, top, cell, cell), values)
        probability = dict(item.classes).get(item.query, float("nan"))
        words = (
            _clipped(item.name, 38),
            _clipped(f"{item.query} {probability:.2f}", 38),
            item.verdict,
        )
        colours = ("black", "0.3", _ALARM if item.alarm else "0.3")
        for line, (text, colour) in enumerate(zip(words, colours, strict=True)):
            below = top + cell + 0.04 + 0.17 * line
            canvas.text(left, below, _clipped(text, 40), va="top", fontsize=9, color=colour)
    note = "Each map runs from 0 to its own maximum."
    if opacity > 0:
        note = "Each map over its image in grey, scaled by itself: yellow where highest, nothing where 0."
    else:
        note += _undefined_note([item.saliency for item in shown])
    canvas.text(_MARGIN, canvas.height - 0.08, note, va="bottom", fontsize=9, color="0.3")
    canvas.save(path)


def _note(shown: Explanation) -> str:
    """Reading guide to the figure of one image."""
    layers = " Each layer's map runs from 0 to its own maximum." if shown.layers else ""
    other = [] if shown.disturbed_saliency is None else [shown.disturbed_saliency]
    undefined = _undefined_note([shown.saliency, *other, *shown.layers.values()])
    two = (
        " The maps for the two classes share one scale: evidence for a class that is not there is invented."
        if other
        else ""
    )
    return f"{shown.method}.{two}{layers}{undefined}"


def draw_gallery(
    images: Tensor,
    maps: Mapping[str, Tensor],
    path: Path,
    *,
    captions: Sequence[str],
    columns: int = 9,
    opacity: float = OPACITY,
) -> None:
    """Draw every image beside the maps of every method, each map from 0 to its own maximum.

    Methods that find no place in one line go on in the next, which starts with the images again.

    Args:
        images: ``(N, C, H, W)`` in [0, 1], one row each.
        maps: name of the method to ``(N, 1, H, W)``, not negative.
        path: PNG file to write.
        captions: N texts, one under each image.
        columns: most methods in one line.
        opacity: of the maps over the images, in [0, 1]; 0 for the maps alone.

    Raises:
        DataError: no image, no method, or maps or captions that do not fit the images.
    """
    _check_gallery(images, maps, captions)
    names = list(maps)
    lines = [names[start : start + columns] for start in range(0, len(names), columns)]
    across, down = _PANEL + _SPACE, _PANEL + _CAPTION
    block = _HEAD + len(images) * down
    width = 2 * _EDGE + (1 + len(lines[0])) * across - _SPACE
    if opacity > 0:
        words = "Each map has a scale of its own, from 0: brightness does not compare between panels."
        words += " Under it is its image, in grey."
    else:
        words = "Each map runs from 0 to its own maximum: brightness does not compare between panels."
        words += _undefined_note(list(maps.values()))
    note = textwrap.wrap(words, width // 8)
    height = len(lines) * block + 10 + 18 * len(note)
    panels = np.full((height, width, 3), 255, np.uint8)
    canvas = Canvas(width / 100, height / 100)
    for number, line in enumerate(lines):
        top = number * block + _HEAD
        for column, name in enumerate(["image", *line]):
            left = _EDGE + column * across
            middle = (left + _PANEL / 2) / 100
            canvas.text(
                middle,
                (top - 5) / 100,
                _in_lines(name),
                ha="center",
                va="bottom",
                fontsize=11,
                linespacing=1.0,
            )
            if not column:
                shown = image_pixels(images)
            elif opacity > 0:
                shown = overlaid(images, maps[name], opacity=opacity)
            else:
                shown = map_pixels(maps[name], end=largest, palette=few_shades())
            for row, (picture, caption) in enumerate(zip(shown, captions, strict=True)):
                y = top + row * down
                panels[y : y + _PANEL, left : left + _PANEL] = _enlarged(picture)
                if column == 0:
                    below = (y + _PANEL + 4) / 100
                    canvas.text(middle, below, caption, ha="center", va="top", fontsize=11)
    style = {"ha": "center", "va": "bottom", "fontsize": 10.5, "color": "0.35"}
    canvas.text(canvas.width / 2, canvas.height - 0.08, "\n".join(note), **style)
    canvas.figure.figimage(panels, zorder=-1)
    canvas.save(path, colours=_COLOURS if opacity == 0 else _OVER_IMAGES)


def _undefined_note(maps: Sequence[Tensor]) -> str:
    return "" if all(bool(one.isfinite().all()) for one in maps) else _UNDEFINED


def _draw_classes(canvas: Canvas, box: tuple[float, float, float, float], shown: Explanation) -> None:
    axes = canvas.axes(*box)
    asked = {shown.query: _QUERY, shown.disturbed: _OTHER}
    places = np.arange(len(shown.classes))
    colours = [asked.get(name, "0.7") for name, _ in shown.classes]
    axes.barh(places, [share for _, share in shown.classes], color=colours, height=0.7)
    for place, (name, share) in enumerate(shown.classes):
        # Inside a long bar, so that it never leaves the axes.
        inside = share > 0.7
        axes.text(
            share - 0.02 if inside else share + 0.02,
            place,
            _percent(share),
            ha="right" if inside else "left",
            va="center",
            fontsize=9,
            color="white" if inside and name in asked else "black",
        )
    labels = [_clipped(name, 22) for name, _ in shown.classes]
    axes.set_yticks(places, labels=labels, fontsize=10, parse_math=False)
    for label, (name, _) in zip(axes.get_yticklabels(), shown.classes, strict=True):
        label.set_color(asked.get(name, "black"))
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(len(shown.classes) - 0.5, -0.5)
    axes.set_xticks([0.0, 1.0], labels=["0", "1"], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("probability", fontsize=11, pad=4)


def _percent(share: float) -> str:
    """A share in words, with a digit after the point where it is small."""
    if share >= 0.0995:
        return f"{share:.0%}"
    return f"{share:.1%}" if share >= 0.0005 else "< 0.1%"


def _clipped(text: str, most: int) -> str:
    text = plain(text)
    return text if len(text) <= most else text[: most - 3] + "..."


def _check_gallery(images: Tensor, maps: Mapping[str, Tensor], captions: Sequence[str]) -> None:
    if images.ndim != 4 or len(images) == 0:
        raise DataError(f"a gallery needs images (N, C, H, W), at least one; found {tuple(images.shape)}")
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
        if lines[-1] and len(lines[-1]) + len(word.rstrip()) > _LETTERS:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.strip() for line in lines)


def _enlarged(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(H, W, 3)`` at the panel's size, every pixel shown by the nearest."""
    rows, columns = (np.arange(_PANEL) * length // _PANEL for length in picture.shape[:2])
    panel: NDArray[np.uint8] = picture[rows[:, None], columns]
    return panel
