"""Pictures inside a page: as they are where there is room, else with fewer colours and pixels."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from verisal._brief import brief
from verisal.pictures import Pixels, reduced_png

# Tried one after the other: colours, and the share of width and height.
_STEPS: Final = ((128, 1.0), (64, 0.75), (64, 0.5), (32, 0.35))


@final
@dataclass(frozen=True)
class Picture:
    """A picture and its PNG file.

    Attributes:
        pixels: ``(H, W, 3)`` uint8.
        content: of the file.
    """

    pixels: Pixels
    content: bytes

    __repr__ = brief

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.pixels.shape[0])


def embedded(pictures: Sequence[Picture | None], room: int) -> list[str]:
    """Data addresses of pictures in the order given, empty for those that found no room.

    Args:
        pictures: to embed; None has no address.
        room: bytes of all addresses together, at most.
    """
    contents = [b"" if picture is None else picture.content for picture in pictures]
    for colours, scale in _STEPS:
        # The largest first: text in small figures stays sharp.
        for place in sorted(range(len(contents)), key=lambda at: -len(contents[at])):
            if _length(contents) <= room:
                break
            picture = pictures[place]
            if picture is not None:
                smaller = reduced_png(picture.pixels, scale=scale, colours=colours)
                contents[place] = min(contents[place], smaller, key=len)
    while _length(contents) > room:
        last = max(place for place, content in enumerate(contents) if content)
        contents[last] = b""
    return [_address(content) if content else "" for content in contents]


def _address(content: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _length(contents: Sequence[bytes]) -> int:
    return sum(len("data:image/png;base64,") + 4 * -(-len(content) // 3) for content in contents if content)
