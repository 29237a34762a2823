"""Which files Pillow reads as pictures: by their suffix, or by their first bytes where they have none."""

from __future__ import annotations

import struct
import warnings
from functools import cache
from pathlib import Path

from PIL import Image

__all__ = ["holds_picture", "image_suffixes", "picture_formats"]

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
    """Whether the first bytes of a file are those of a picture.

    Raises:
        OSError: the file cannot be read.
    """
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
    """Whether files of a format begin so."""
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
