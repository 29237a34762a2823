"""The one decoder of image files: upright, RGB, float32 in [0, 1], or a :class:`DataError` with the path."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Self, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from verisal.data.pillow import (
    orientation_in,
    picture_formats,
    png_without_metadata,
    raw_mode,
    sixteen_bits,
    tiff_without_metadata,
    turned,
)
from verisal.errors import DataError

_SPARE = 4
"""Times the pixels of the square that a whole picture may have after the resize; of a longer one, see
:meth:`Frame._middle`, the middle alone is made."""


@final
@dataclass(frozen=True)
class Frame:
    """A resize followed by a central crop, the same for an image and everything marked in it.

    Attributes:
        height: of the picture before, in pixels.
        width: of the picture before.
        scaled: height and width after the resize.
        size: height and width of the crop.
    """

    height: int
    width: int
    scaled: tuple[int, int]
    size: tuple[int, int]

    @classmethod
    def around(cls, height: int, width: int, *, size: int | tuple[int, int], crop_share: float = 1.0) -> Self:
        """The frame about the middle, a square or of a height and a width, that just fits into the picture.

        It covers ``crop_share`` of the side by which it fits, the short one for a square.
        """
        size = (size, size) if isinstance(size, int) else size
        down, across = (round(side / crop_share) for side in size)
        if down * width >= across * height:
            scaled = (down, max(across, round(width * down / height)))
        else:
            scaled = (max(down, round(height * across / width)), across)
        return cls(height, width, scaled, size)

    def image(self, image: Tensor) -> Tensor:
        """``(C, H, W)`` float32 in [0, 1] to ``(C, *size)``: bilinear, antialiased."""
        return self._framed(image).clamp(0.0, 1.0)

    def masks(self, masks: Tensor) -> Tensor:
        """``(N, H, W)`` bool to ``(N, *size)``: pixels of which the object covers at least one half."""
        return self._framed(masks) >= 0.5

    def boxes(self, boxes: Tensor) -> Tensor:
        """``(N, 4)`` xyxy to the same in the crop, cut off at its border; what lies outside is empty."""
        ratio = torch.tensor([self.scaled[1] / self.width, self.scaled[0] / self.height]).repeat(2)
        offset = torch.tensor([self._left, self._top]).repeat(2)
        most = torch.tensor([float(self.size[1]), float(self.size[0])]).repeat(2)
        return (boxes * ratio - offset).clamp_min(0.0).minimum(most)

    @property
    def _top(self) -> int:
        return (self.scaled[0] - self.size[0]) // 2

    @property
    def _left(self) -> int:
        return (self.scaled[1] - self.size[1]) // 2

    def _framed(self, values: Tensor) -> Tensor:
        """``(N, H, W)`` to ``(N, *size)`` float32."""
        if not len(values):
            return torch.zeros(0, *self.size)
        if self.scaled != (self.height, self.width):
            if self.scaled[0] * self.scaled[1] > _SPARE * self.size[0] * self.size[1]:
                return self._middle(values)
            values = F.interpolate(
                values[None].float(), size=self.scaled, mode="bilinear", align_corners=False, antialias=True
            )[0]
        height, width = self.size
        return values[:, self._top : self._top + height, self._left : self._left + width].float()

    def _middle(self, values: Tensor) -> Tensor:
        """The crop alone, out of the pixels that it is made of: a long strip would become a long image."""
        rows, down = _taps(self.height, self.scaled[0], self._top, self.size[0])
        columns, across = _taps(self.width, self.scaled[1], self._left, self.size[1])
        return down @ (values[:, rows, columns].float() @ across.T)


def _taps(length: int, scaled: int, first: int, count: int) -> tuple[slice, Tensor]:
    """Pixels and their weights ``(count, pixels)`` for a part of an antialiased bilinear resize of a line.

    The resize is from ``length`` to ``scaled`` pixels; wanted are ``count`` results from ``first``. Weights
    are rounded where ``F.interpolate`` rounds, so that both ways give equal images.
    """
    step = float(torch.tensor(length / scaled))
    reach = max(step, 1.0)
    centres = (step * (torch.arange(first, first + count, dtype=torch.float64) + 0.5)).float().double()
    low = (centres - reach + 0.5).long().clamp_min(0)
    high = (centres + reach + 0.5).long().clamp_max(length)
    places = torch.arange(int(low[0]), int(high[-1]))
    weights = (1 - ((places - centres[:, None] + 0.5) / reach).abs()).clamp_min(0)
    weights *= (places >= low[:, None]) & (places < high[:, None])
    return slice(int(low[0]), int(high[-1])), (weights / weights.sum(dim=1, keepdim=True)).float()


MAX_PIXELS = 64_000_000
# Formats in which grey values come back changed.
_BLURRED = frozenset({"JPEG", "MPO"})
# Modes of pictures without colour.
_GREY = frozenset({"1", "L", "LA", "La", "F", "I", "I;16", "I;16L", "I;16B", "I;16N"})
# Brands in the first box of HEIC files.
_HEIF = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"})

Value = TypeVar("Value", np.float32, np.int64)


def decode_image(path: str | PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read one image file as it is meant to be seen.

    The EXIF orientation is applied, so annotations are in display coordinates; one that is damaged is taken
    as upright, and no other tag is looked at. Grey, palette, CMYK and 1-bit images become RGB; transparency
    is laid over white; 16-bit values are scaled by 65535, never wrapped. Of an animation the first frame is
    taken.

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


def decode_picture(path: str | PathLike[str], *, max_pixels: int = MAX_PIXELS, bands: bool = False) -> Tensor:
    """Read one image file as :func:`decode_image` does, with the channels that it has.

    Args:
        path: the file.
        max_pixels: largest width times height that is decoded.
        bands: True to take the four numbers of each pixel of a file with opacity as four channels.

    Returns:
        ``(C, H, W)`` float32 in [0, 1]: one channel of grey and 1-bit images, three of all others.

    Raises:
        DataError: as of :func:`decode_image`.
    """
    pixels = _decoded(path, max_pixels, _four if bands else _own_channels)
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def decode_index_mask(path: str | PathLike[str], *, max_pixels: int = MAX_PIXELS) -> NDArray[np.int64]:
    """Numbers ``(H, W)`` int64 of a picture: of objects, of classes, or 0 and anything else.

    A palette's colours are ignored: its indices are the numbers. The EXIF orientation is applied.

    Args:
        path: the file; of 1 to 16 bits, with one channel or a palette.
        max_pixels: largest width times height that is decoded.

    Raises:
        DataError: as of :func:`decode_image`; or the picture is in colour, or a JPEG file.
    """
    return _decoded(path, max_pixels, _numbers)


def resize_image(image: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The middle of an image ``(C, H, W)`` float32 in [0, 1], resized: ``(C, size, size)``, or of both sizes.

    Height and width are resized alike, bilinear and antialiased, so that the image just covers what is asked
    for, and what is beyond it is cut off on both sides.

    Raises:
        DataError: the image is not ``(C, H, W)`` with at least one pixel.
    """
    if image.ndim != 3 or image.numel() == 0:
        raise DataError(f"image must be (C, H, W) with at least one pixel, found {tuple(image.shape)}")
    return Frame.around(image.shape[1], image.shape[2], size=size).image(image)


@dataclass(frozen=True)
class _File:
    """Content of an image file, how its pixels are to be turned, where that is known, and what 0 means."""

    path: str | PathLike[str]
    content: bytes
    orientation: int | None = None
    white_is_0: bool = False

    def open(self) -> Image.Image:
        # Of any kind, whatever the suffix, but for those that would start another program.
        return Image.open(io.BytesIO(self.content), formats=picture_formats())


def content_of(path: str | PathLike[str], count: int = -1) -> bytes:
    """The first ``count`` bytes of a file, or all of them.

    Raises:
        DataError: a file that cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return file.read(count)
    # A name that no file can have is a ValueError.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); expected an image file") from error


def _decoded(
    path: str | PathLike[str], max_pixels: int, pixels: Callable[[Image.Image, _File], NDArray[Value]]
) -> NDArray[Value]:
    content = content_of(path)
    if not content:
        raise DataError(f"{path}: the file is empty (0 bytes); expected an image file")
    try:
        # What cannot be read is told below, and our limit on pixels is the one that counts.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _pixels_of(path, content, max_pixels, pixels)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}; shrink the image") from error
    except MemoryError as error:
        raise DataError(f"{path}: decoding needs more memory than there is; shrink the image") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path}: not an image that Pillow knows ({len(content)} bytes); {_advice(content)}"
        ) from error
    # Any error may come of a damaged file, depending on the format and on the place of the damage.
    except Exception as error:
        raise DataError(
            f"{path}: damaged or truncated image ({type(error).__name__}: {error}); fetch the file again"
        ) from error


def _advice(content: bytes) -> str:
    """Advice about a file that is no image, by what such files often are."""
    if content.startswith(b"version https://"):
        return "it is a pointer of Git LFS: fetch the file itself (git lfs pull)"
    if content[:64].lstrip().startswith(b"<") and b"<svg" not in content[:1024]:
        return "it is a web page, as a failed download leaves it: fetch the file again"
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF:
        return "it is a HEIC picture of a phone: convert it to PNG or JPEG"
    return "remove it or convert it to PNG"


def _pixels_of(
    path: str | PathLike[str],
    content: bytes,
    max_pixels: int,
    pixels: Callable[[Image.Image, _File], NDArray[Value]],
) -> NDArray[Value]:
    def read(file: _File) -> NDArray[Value]:
        with file.open() as image:
            _check_size(image, path, max_pixels)
            found = pixels(image, file)
            # A PNG file may name its orientation after the pixels.
            return turned(found, file.orientation or orientation_in(image.info))

    if (tiff := tiff_without_metadata(content)) is not None:
        return read(_File(path, *tiff))
    try:
        return read(_File(path, content))
    except DataError:
        raise
    except Exception:
        if (png := png_without_metadata(content)) is None:
            raise
        return read(_File(path, *png))


def _check_size(image: Image.Image, path: str | PathLike[str], max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(
            f"{path}: {width} x {height} pixels, but at most {max_pixels} are decoded;"
            " shrink the image or raise max_pixels"
        )


def _rgb(image: Image.Image, file: _File) -> NDArray[np.float32]:
    """``(H, W, 3)`` float32 in [0, 1]."""
    mode, clear = raw_mode(image), image.info.get("transparency")
    deep = sixteen_bits(image, file.open)
    if deep is not None:
        return _over_white(deep, clear)
    # Arrays are made of what cannot be loaded, too.
    image.load()
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion to 8 bits clips or wraps.
        grey = np.asarray(image)
        if file.white_is_0:
            grey = 65535 - grey
        if isinstance(clear, int) and grey.dtype.itemsize == 2:
            return _over_white(grey[:, :, None], (clear,))
        return _grey(grey.astype(np.float32) / 65535.0, file.path)
    if image.mode == "F":
        return _grey(np.asarray(image).astype(np.float32), file.path)
    if image.has_transparency_data:
        if isinstance(clear, int):
            # Pillow spreads 2-bit and 4-bit grey over 0..255, but not the value that is transparent.
            image.info["transparency"] = clear * _spread(mode)
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
    return _unit(np.asarray(image.convert("RGB")))


def _unit(values: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bytes ``(H, W, C)`` as float32 in [0, 1], whose channels lie one after the other in memory."""
    planes = np.empty((values.shape[2], *values.shape[:2]), np.float32)
    # In the order in which images are wanted, at once: a photograph is much to copy again.
    np.divide(values.transpose(2, 0, 1), np.float32(255), out=planes)
    return planes.transpose(1, 2, 0)


def _own_channels(image: Image.Image, file: _File) -> NDArray[np.float32]:
    """``(H, W, 1)`` of grey images and ``(H, W, 3)`` of others, float32 in [0, 1]."""
    colours = _rgb(image, file)
    return colours[..., :1] if image.mode in _GREY or raw_mode(image).startswith("LA") else colours


def _four(image: Image.Image, file: _File) -> NDArray[np.float32]:
    """``(H, W, 4)`` float32 in [0, 1] where the file has four numbers per pixel, else its own channels."""
    deep = sixteen_bits(image, file.open)
    if deep is not None and deep.shape[2] == 4:
        return deep.astype(np.float32) / 65535.0
    if deep is None and image.mode in ("RGBA", "RGBX"):
        image.load()
        return _unit(np.asarray(image))
    with file.open() as again:
        return _own_channels(again, file)


def _over_white(values: NDArray[np.uint16], clear: object) -> NDArray[np.float32]:
    """16-bit grey or colours ``(H, W, 1..4)`` on white; opacity is the last of an even number of channels.

    ``clear`` are the values of a pixel that is transparent, if a tuple.
    """
    colours = values.astype(np.float32) / 65535.0
    if values.shape[2] % 2 == 0:
        opacity = colours[..., -1:]
        colours = colours[..., :-1] * opacity + (1.0 - opacity)
    elif isinstance(clear, tuple):
        colours[(values == np.asarray(clear)).all(axis=2)] = 1.0
    return np.broadcast_to(colours, (*values.shape[:2], 3))


def _grey(values: NDArray[np.float32], path: str | PathLike[str]) -> NDArray[np.float32]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= 1.0):
        raise DataError(
            f"{path}: grey values from {low:.4g} to {high:.4g} after scaling; expected 16-bit integers"
            " or floats in [0, 1]; convert the image to 8 or 16 bits"
        )
    return np.repeat(values[:, :, None], 3, axis=2)


def _numbers(image: Image.Image, file: _File) -> NDArray[np.int64]:
    mode = raw_mode(image)
    if image.format in _BLURRED:
        raise DataError(
            f"{file.path}: a mask in {image.format}, which changes numbers at edges; save it as PNG, from"
            " the numbers themselves"
        )
    image.load()
    values = np.asarray(image)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise DataError(
            f"{file.path}: a mask must have one channel or a palette, found mode {image.mode};"
            " save it as 8-bit grey"
        )
    return values.astype(np.int64) // _spread(mode)


def _spread(mode: str) -> int:
    """Factor by which Pillow multiplies grey values, so that 2 and 4 bits fill 0..255."""
    return {"L;2": 85, "L;4": 17}.get(mode[:3], 1)
