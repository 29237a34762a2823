"""Colours of 16 bits a channel. Pillow keeps the high byte of each, and reads the low one if told so."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

__all__ = ["raw_mode", "sixteen_bits"]

_BITS, _PLANAR = 258, 284
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def raw_mode(image: Image.Image) -> str:
    """How the pixels of a picture that is not decoded yet lie in its file; "" where that is not said."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return ""
    args = image.tile[0].args
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) else ""


def sixteen_bits(image: Image.Image, again: Callable[[], Image.Image]) -> NDArray[np.uint16] | None:
    """``(H, W, C)`` of a picture with 16 bits a channel: RGB, RGB and opacity, or grey and opacity.

    None for any other picture, and for opacity that the colours are multiplied with.

    Args:
        image: opened and not decoded yet.
        again: opens the file once more.
    """
    mode = raw_mode(image)
    if mode == "LA;16B":
        # 4 bytes a pixel, as 8-bit colours with opacity have.
        four = _bytes_of(image, "RGBA")
        return _joined(four[..., ::2], four[..., 1::2])
    if order := _planes(image):
        high = _bytes_of_planes(image, order)
        with again() as second:
            return _joined(high, _bytes_of_planes(second, _OTHER_BYTE[order]))
    colours, _, order = mode.partition(";16")
    if colours not in ("RGB", "RGBX", "RGBA") or order not in _OTHER_BYTE:
        return None
    high = _bytes_of(image, mode)
    with again() as second:
        return _joined(high, _bytes_of(second, f"{colours};16{_OTHER_BYTE[order]}"))


def _planes(image: Image.Image) -> str:
    """Byte order of a TIFF file with 16 bits in separate channels, which Pillow takes for 8 bits; else ""."""
    if not isinstance(image, TiffImageFile) or image.tag_v2.get(_PLANAR) != 2 or ";16" in raw_mode(image):
        return ""
    if set(image.tag_v2.get(_BITS, ())) != {16}:
        return ""
    return "L" if image.tag_v2.prefix == b"II" else "B"


def _bytes_of_planes(image: Image.Image, order: str) -> NDArray[np.uint8]:
    if isinstance(image, ImageFile.ImageFile):
        image.tile = [
            tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))
            for tile in image.tile
            if isinstance(tile.args, tuple)
        ]
    image.load()
    return np.asarray(image)


def _bytes_of(image: Image.Image, mode: str) -> NDArray[np.uint8]:
    """``(H, W, C)``, decoded as if the pixels lay in the file like those of another kind."""
    if isinstance(image, ImageFile.ImageFile):
        image.tile = [
            tile._replace(args=(mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode)
            for tile in image.tile
        ]
    image.load()
    return np.asarray(image)


def _joined(high: NDArray[np.uint8], low: NDArray[np.uint8]) -> NDArray[np.uint16]:
    both: NDArray[np.uint16] = np.multiply(high, 256, dtype=np.uint16)
    both += low
    return both
