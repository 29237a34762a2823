"""Image files as Pillow gets them: of formats that it reads, without metadata, with all of 16 bits.

Cameras, phones and editors damage tags more often than pixels. Pillow reads all tags to turn a picture, and
writes them again, so that one bad tag would cost the picture: the orientation is read here, and the other
tags are left out. Of colours with 16 bits a channel Pillow keeps the high byte, and reads the low one if told
so.
"""

from __future__ import annotations

import re
import struct
import sys
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

# Formats that Pillow names but cannot draw by itself: containers, films, what another program must render.
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
# Their first bytes are no accident, so a file that has them is a picture even if it is damaged.
_CERTAIN = frozenset({"AVIF", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP"})


@cache
def picture_formats() -> tuple[str, ...]:
    """Names of the formats of pictures that the installed Pillow reads, in its order."""
    Image.init()
    return tuple(name for name in Image.ID if name not in _NO_PICTURES)


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of pictures that the installed Pillow reads, in small letters with their dot."""
    registered, readable = Image.registered_extensions(), set(picture_formats())
    return frozenset(suffix for suffix, name in registered.items() if name in readable)


def holds_picture(path: Path) -> bool:
    """True if the first bytes of a file are those of a picture; OSError if it cannot be read."""
    with path.open("rb") as file:
        start = file.read(16)
        fitting = [name for name in picture_formats() if _begins(name, start)]
        if not _CERTAIN.isdisjoint(fitting):
            return True
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                return bool(fitting) and Image.open(file, formats=fitting) is not None
        except Image.DecompressionBombError:
            return True
        # Whatever a reader stumbles over in a file of something else.
        except Exception:
            return False


def _begins(name: str, start: bytes) -> bool:
    """True if files of a format begin so."""
    accepts = Image.OPEN[name][1]
    # A format without a test of the first bytes would take almost any file for its own.
    if accepts is None:
        return False
    try:
        # A text says why this Pillow cannot read the format.
        return accepts(start) is True
    # The tests of some formats read numbers, which a file of a few bytes does not have.
    except struct.error:
        return False


Value = TypeVar("Value", bound=np.generic)

_BITS, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANAR = 258, 262, 274, 277, 284
_WHOLE_NUMBERS = {3: "H", 4: "L"}
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Sizes, layout, compression, colours and transparency of the pixels; not the names, dates, places and
# profiles, nor the orientation.
_TIFF_PIXELS = frozenset(
    {*range(254, 260), 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, *range(320, 326)}
    | {332, 338, 339, 347, *range(512, 522), *range(529, 533), 50674}
)

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


class _Tags(NamedTuple):
    """The first block of tags in a TIFF file or in EXIF data, as far as it lies inside.

    ``entries`` has all bytes of an entry, the first of two with one number; its value begins at ``body``.
    """

    order: str
    entries: Mapping[int, bytes]
    body: int

    @classmethod
    def of(cls, content: bytes) -> _Tags:
        order = {b"II": "<", b"MM": ">"}.get(content[:2], "<")
        entries: dict[int, bytes] = {}
        try:
            big = struct.unpack_from(f"{order}H", content, 2) == (43,)
            (start,) = struct.unpack_from(f"{order}{'Q' if big else 'L'}", content, 8 if big else 4)
            (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", content, start)
        except (struct.error, OverflowError):
            return cls(order, entries, 8)
        size, first = (20, start + 8) if big else (12, start + 2)
        for place in range(first, min(first + count * size, len(content) - size + 1), size):
            entry = content[place : place + size]
            entries.setdefault(struct.unpack_from(f"{order}H", entry)[0], entry)
        return cls(order, entries, 12 if big else 8)

    @property
    def orientation(self) -> int | None:
        """1 to 8; 1 for an entry that says anything else, None without an entry."""
        return _valid(self.number(_ORIENTATION)) if _ORIENTATION in self.entries else None

    def number(self, tag: int) -> int:
        """The whole number under a tag; 0 where there is none, or something else."""
        entry = self.entries.get(tag)
        if entry is None:
            return 0
        kind, count = struct.unpack_from(f"{self.order}H{'L' if self.body == 8 else 'Q'}", entry, 2)
        if kind not in _WHOLE_NUMBERS or count != 1:
            return 0
        (value,) = struct.unpack_from(self.order + _WHOLE_NUMBERS[kind], entry, self.body)
        return int(value)


def orientation_in(info: Mapping[Any, Any]) -> int:
    """1 to 8, of what Pillow found beside the pixels: EXIF data, or without an entry there, XMP.

    An orientation that is damaged or of the wrong type is 1, upright; damage elsewhere does not matter.
    """
    exif = info.get("exif")
    if exif is None and isinstance(text := info.get("Raw profile type exif"), str):
        try:
            exif = bytes.fromhex("".join(text.split("\n")[3:]))
        except ValueError:
            return 1
    if isinstance(exif, bytes):
        while exif.startswith(b"Exif\0\0"):
            exif = exif[6:]
        if (found := _Tags.of(exif).orientation) is not None:
            return found
    for name in ("XML:com.adobe.xmp", "xmp"):
        xmp = info.get(name) or b""
        if match := _XMP.search(xmp.encode("utf-8", "replace") if isinstance(xmp, str) else xmp):
            return _valid(int(match[1]))
    return 1


def turned(pixels: NDArray[Value], orientation: int) -> NDArray[Value]:
    """``pixels (H, W, ...)`` as they are meant to be seen.

    >>> turned(np.array([[1, 2, 3]]), 6).tolist()
    [[1], [2], [3]]
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def is_tiff(start: bytes) -> bool:
    """True if a file that begins so is a TIFF file."""
    return start.startswith(_TIFF_STARTS)


def tiff_samples(content: bytes) -> int:
    """Numbers per pixel of the first picture in a TIFF file."""
    return _Tags.of(content).number(_SAMPLES) or 1


def tiff_without_metadata(content: bytes) -> tuple[bytes, int, bool] | None:
    """A TIFF file of the first picture with the tags of its pixels alone, its orientation, and if 0 is white.

    16-bit grey with 0 for white is told as grey with 0 for black: Pillow reads it so, or does not know it.
    None where ``content`` is no TIFF file. Pillow would turn the picture itself, and any tag can stop it.
    """
    if not content.startswith(_TIFF_STARTS):
        return None
    tags = _Tags.of(content)
    pixels = {tag: tags.entries[tag] for tag in sorted(tags.entries) if tag in _TIFF_PIXELS}
    white_is_0 = tags.number(_BITS) == 16 and _PHOTOMETRIC in pixels and tags.number(_PHOTOMETRIC) == 0
    if white_is_0:
        entry = pixels[_PHOTOMETRIC]
        pixels[_PHOTOMETRIC] = entry[: tags.body] + struct.pack(f"{tags.order}H", 1) + entry[tags.body + 2 :]
    kept = list(pixels.values())
    if tags.body == 8:
        start, count, end = content[:4] + struct.pack(f"{tags.order}L", len(content)), "H", bytes(4)
        rest = content[8:]
    else:
        start, count, end = content[:8] + struct.pack(f"{tags.order}Q", len(content)), "Q", bytes(8)
        rest = content[16:]
    block = struct.pack(tags.order + count, len(kept)) + b"".join(kept) + end
    return start + rest + block, tags.orientation or 1, white_is_0


def png_without_metadata(content: bytes) -> tuple[bytes, int] | None:
    """A PNG file with the chunks of its pixels alone, and its orientation; None where it is no PNG file.

    Pillow refuses a file of which a comment is damaged, or a colour profile large.
    """
    if not content.startswith(_PNG_START):
        return None
    kept, info, place = [_PNG_START], dict[str, bytes](), len(_PNG_START)
    while place + 12 <= len(content):
        length, name = struct.unpack_from(">L4s", content, place)
        if name in _PNG_PIXELS:
            kept.append(content[place : place + length + 12])
        elif name == b"eXIf":
            info.setdefault("exif", content[place + 8 : place + 8 + length])
        place += length + 12
    return b"".join(kept), orientation_in(info)


def _valid(orientation: int) -> int:
    return orientation if 1 <= orientation <= 8 else 1


_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def raw_mode(image: Image.Image) -> str:
    """Layout of the pixels of a picture that is not decoded yet; "" where the file does not say it."""
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return ""
    args = image.tile[0].args
    mode = args[0] if isinstance(args, tuple) and args else args
    return mode if isinstance(mode, str) else ""


def sixteen_bits(image: Image.Image, again: Callable[[], Image.Image]) -> NDArray[np.uint16] | None:
    """``(H, W, C)`` of a picture with 16 bits a channel: RGB, RGB and opacity, or grey and opacity.

    None for any other picture, and for opacity that the colours are multiplied with. ``image`` is opened and
    not decoded yet; ``again`` opens the file once more.
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
