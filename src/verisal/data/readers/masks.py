"""Pixels of an object as files have them: pictures of numbers, polygons, run lengths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from verisal.data.decode import MAX_PIXELS, decode_index_mask
from verisal.errors import DataError

Bits = NDArray[np.bool_]


@final
@dataclass(frozen=True)
class IndexMask:
    """A picture of numbers; the object is where one of ``values`` stands, or anything but 0 without them."""

    path: Path
    values: tuple[int, ...] = ()

    def read(self, height: int, width: int) -> Bits:
        """Pixels of the object ``(height, width)``.

        DataError for a file of another size, or that cannot be read.
        """
        numbers = self.numbers(height, width)
        return np.isin(numbers, self.values) if self.values else numbers != 0

    def numbers(self, height: int, width: int) -> NDArray[np.int64]:
        """The numbers ``(height, width)``; DataError for a file of another size, or that cannot be read."""
        # An image that was decoded may have a mask of its size, whatever the limit.
        numbers = decode_index_mask(self.path, max_pixels=max(MAX_PIXELS, height * width))
        if numbers.shape != (height, width):
            raise DataError(
                f"{self.path}: mask is {numbers.shape[1]} x {numbers.shape[0]} pixels, its image"
                f" {width} x {height} as displayed; make the mask again from the image"
            )
        return numbers


@final
@dataclass(frozen=True)
class PolygonMask:
    """Closed polygons ``x1, y1, x2, y2, ...`` in pixels; the object is the union of their insides."""

    polygons: tuple[tuple[float, ...], ...]

    def read(self, height: int, width: int) -> Bits:
        """``(height, width)``: pixels whose centre lies inside, by the even-odd rule of each polygon."""
        inside = np.zeros((height, width), dtype=bool)
        for polygon in self.polygons:
            corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
            left, top = np.clip(np.floor(corners.min(axis=0)), 0, (width, height)).astype(int)
            right, bottom = np.clip(np.ceil(corners.max(axis=0)), 0, (width, height)).astype(int)
            x = np.arange(left, right) + 0.5
            y = np.arange(top, bottom) + 0.5
            odd = np.zeros((bottom - top, right - left), dtype=bool)
            for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
                # Rows with y1 <= y < y2 or y2 <= y < y1.
                first, last = np.searchsorted(y, sorted((y1, y2)))
                if first < last:
                    crossing = x1 + (y[first:last, None] - y1) * (x2 - x1) / (y2 - y1)
                    odd[first:last] ^= x < crossing
            inside[top:bottom, left:right] |= odd
        return inside


@final
@dataclass(frozen=True)
class RunLengthMask:
    """Lengths of runs of 0 and 1 in turn, 0 first, down the columns, of a picture of ``height x width``."""

    counts: tuple[int, ...]
    height: int
    width: int
    place: str

    def read(self, height: int, width: int) -> Bits:
        """Pixels of the object ``(height, width)``; DataError where the runs do not fill such a picture."""
        if (self.height, self.width) != (height, width) or sum(self.counts) != height * width:
            raise DataError(
                f"{self.place}: run lengths fill {sum(self.counts)} pixels of {self.width} x {self.height},"
                f" the image is {width} x {height} as displayed"
            )
        flat = np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts)
        return np.ascontiguousarray(flat.reshape(width, height).T)


MaskSource: TypeAlias = IndexMask | PolygonMask | RunLengthMask


def counts_of_text(text: str) -> tuple[int, ...]:
    """Run lengths of COCO's compressed text: 5 bits a character, differences from the run before last.

    ValueError for a character that the code does not have, or a text that ends within a number.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {character!r} in run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift or any(count < 0 for count in counts):
        raise ValueError("run lengths end within a number or are negative")
    return tuple(counts)
