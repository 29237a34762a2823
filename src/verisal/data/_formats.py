"""Which files Pillow reads as pictures: by their suffix, or by their first bytes where they have none."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

from PIL import Image

__all__ = ["holds_picture", "image_suffixes"]

# Formats that Pillow names but cannot draw by itself: containers, films, what another program must render.
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
# Their first bytes are no accident, so a file that has them is a picture even if it is damaged.
_CERTAIN = frozenset({"AVIF", "GIF", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP"})


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of pictures that the installed Pillow reads, in small letters with their dot."""
    registered = Image.registered_extensions()
    readable = Image.OPEN.keys() - _NO_PICTURES
    return frozenset(suffix for suffix, name in registered.items() if name in readable)


def holds_picture(path: Path) -> bool:
    """Whether the first bytes of a file are those of a picture.

    Raises:
        OSError: the file cannot be read.
    """
    Image.init()
    with path.open("rb") as file:
        start = file.read(16)
        # A format without a test of the first bytes would take almost any file for its own.
        fitting = [
            name
            for name, (_, accepts) in Image.OPEN.items()
            # A text says why this Pillow cannot read the format.
            if name not in _NO_PICTURES and accepts and (yes := accepts(start)) and not isinstance(yes, str)
        ]
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
