"""Bootstrap resamples of images, a part of them at a time, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from verisal.types import check_range

# Bytes of resamples that are kept for the next question; larger ones are drawn again for each.
_MOST_KEPT = 2**26
# Numbers that are looked at together.
_AT_ONCE = 2**18


@final
class Resamples:
    """How often each image occurs in each of S resamples, always the same ones.

    Args:
        count: number S of resamples.
        seed: of the draw.

    Raises:
        ConfigError: a number below 0.
    """

    def __init__(self, count: int, *, seed: int) -> None:
        check_range(0, count=count, seed=seed)
        self._count, self._seed = count, seed
        self._kept: dict[int, Tensor] = {}

    def parts(self, images: int) -> Iterator[Tensor]:
        """``(s, images)`` uint8 of some resamples after the others; each sums to the number of images."""
        rows = _rows_at_once(images)
        size = self._count * images
        if size > _MOST_KEPT:
            return self._drawn(images, rows)
        if images not in self._kept:
            if size + sum(kept.numel() for kept in self._kept.values()) > _MOST_KEPT:
                self._kept.clear()
            whole = torch.zeros(self._count, images, dtype=torch.uint8)
            for place, part in zip(torch.split(whole, rows), self._drawn(images, rows), strict=False):
                place.copy_(part)
            self._kept[images] = whole
        return iter(torch.split(self._kept[images], rows))

    def at(self, places: Tensor, images: int) -> Iterator[Tensor]:
        """``(s, n)`` float32: how often what stands at ``places (n,)`` occurs, of so many images."""
        rows = _rows_at_once(len(places))
        everything = len(places) == images and bool((places == torch.arange(images)).all())
        for several in self.parts(images):
            for part in torch.split(several, rows):
                yield (part if everything else part[:, places]).float()

    def _drawn(self, images: int, rows: int) -> Iterator[Tensor]:
        """The resamples, so many at once, which changes none of them."""
        generator = torch.Generator().manual_seed(self._seed)
        one = torch.ones(1, dtype=torch.uint8)
        for start in range(0, self._count if images else 0, rows):
            shape = min(rows, self._count - start), images
            places = torch.randint(images, shape, generator=generator)
            # That as many draws as images give one image more than 255 times does not happen.
            yield torch.zeros(shape, dtype=torch.uint8).scatter_add_(1, places, one.expand(shape))


def _rows_at_once(length: int) -> int:
    return max(1, _AT_ONCE // max(1, length))
