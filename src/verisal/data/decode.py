"""The one decoder of image files: upright, RGB, float32 in [0, 1], or a :class:`DataError` with the path."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from verisal.data.framing import Frame
from verisal.errors import DataError

__all__ = ["MAX_PIXELS", "decode_image", "decode_index_mask", "resize_image"]

MAX_PIXELS = 64_000_000

Value = TypeVar("Value", np.float32, np.int64)

# What Pillow's readers raise for damaged files, depending on the format and on where the file is cut.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, struct.error)


def decode_image(path: str | PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read one image file as it is meant to be seen.

    The EXIF orientation is applied, so annotations are in display coordinates. Grey, palette, CMYK and
    1-bit images become RGB; transparency is laid over white; 16-bit values are scaled by 65535, never
    wrapped. Of an animation the first frame is taken.

    Args:
        path: the file; any name that the file system allows.
        max_pixels: largest width times height that is decoded. Pillow itself refuses files beyond
            179 million pixels.

    Returns:
        ``(3, H, W)`` float32 in [0, 1].

    Raises:
        DataError: the file is missing, empty, not an image, damaged, or too large; names the path.
    """
    pixels = _decoded(path, max_pixels, _rgb)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def decode_index_mask(path: str | PathLike[str], *, max_pixels: int = MAX_PIXELS) -> NDArray[np.int64]:
    """Read a picture whose values are numbers, not colours: of objects, of classes, or 0 and anything else.

    A palette's colours are ignored: its indices are the numbers. The EXIF orientation is applied.

    Args:
        path: the file; 1-bit, 8-bit or 16-bit, with one channel or a palette.
        max_pixels: largest width times height that is decoded.

    Returns:
        ``(H, W)`` int64.

    Raises:
        DataError: as of :func:`decode_image`; or the picture is in colour.
    """
    return _decoded(path, max_pixels, _numbers)


def resize_image(image: Tensor, size: int) -> Tensor:
    """Antialiased bilinear resize of the short side to ``size``, then the central ``size`` x ``size`` crop.

    Args:
        image: ``(3, H, W)`` float32 in [0, 1].
        size: side of the result in pixels.

    Returns:
        ``(3, size, size)`` float32 in [0, 1].

    Raises:
        DataError: the image is not ``(3, H, W)`` with at least one pixel.
    """
    if image.ndim != 3 or image.shape[0] != 3 or image.numel() == 0:
        raise DataError(f"image must be (3, H, W) with at least one pixel, found {tuple(image.shape)}")
    return Frame.around(image.shape[1], image.shape[2], size=size).image(image)


def _decoded(
    path: str | PathLike[str],
    max_pixels: int,
    pixels: Callable[[Image.Image, str | PathLike[str]], NDArray[Value]],
) -> NDArray[Value]:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected an image file") from error
    if not content:
        raise DataError(f"{path}: the file is empty (0 bytes); expected an image file")
    try:
        # The limit below is the one that counts, so Pillow's own warning would only repeat it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content))
        with image:
            _check_size(image, path, max_pixels)
            return pixels(ImageOps.exif_transpose(image), path)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}; shrink the image") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path}: not an image that Pillow knows ({len(content)} bytes); remove it or convert it to PNG"
        ) from error
    except _DAMAGED as error:
        raise DataError(f"{path}: damaged or truncated image ({error}); fetch the file again") from error


def _check_size(image: Image.Image, path: str | PathLike[str], max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(
            f"{path}: {width} x {height} pixels, but at most {max_pixels} are decoded;"
            " shrink the image or raise max_pixels"
        )


def _rgb(image: Image.Image, path: str | PathLike[str]) -> NDArray[np.float32]:
    """``(H, W, 3)`` float32 in [0, 1]."""
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion to 8 bits clips or wraps.
        return _grey(np.asarray(image).astype(np.float32) / 65535.0, path)
    if image.mode == "F":
        return _grey(np.asarray(image).astype(np.float32), path)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0


def _grey(values: NDArray[np.float32], path: str | PathLike[str]) -> NDArray[np.float32]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= 1.0):
        raise DataError(
            f"{path}: grey values from {low:.4g} to {high:.4g} after scaling; expected 16-bit integers"
            " or floats in [0, 1]; convert the image to 8 or 16 bits"
        )
    return np.repeat(values[:, :, None], 3, axis=2)


def _numbers(image: Image.Image, path: str | PathLike[str]) -> NDArray[np.int64]:
    values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise DataError(
            f"{path}: a mask must have one channel or a palette, found mode {image.mode};"
            " save it as 8-bit grey"
        )
    return values.astype(np.int64)
