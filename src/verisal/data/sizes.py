"""Batches of images of several sizes: grouped, so that each holds images of one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from torch.utils.data import Sampler

from verisal.types import check_range


@final
class SizeGroups(Sampler[list[int]]):
    """A ``batch_sampler`` for loaders of images of several sizes: every batch holds images of one size.

    Images are never padded: a network sees the padding, and so do removal curves, masks and averages over
    pixels, so that the scores of an image would hang on the largest one beside it. Nor are they resized.
    Sizes come in the order of their first images, and images of a size in their own order, in every epoch.

    Args:
        sizes: height and width of every image of the data set, by its position.
        batch_size: images in a batch at most.

    Raises:
        ConfigError: a batch size below 1.

    >>> list(SizeGroups([(4, 4), (4, 6), (4, 4), (4, 4)], batch_size=2))
    [[0, 2], [3], [1]]
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], batch_size: int) -> None:
        check_range(1, batch_size=batch_size)
        groups: dict[tuple[int, int], list[int]] = {}
        for place, (height, width) in enumerate(sizes):
            groups.setdefault((height, width), []).append(place)
        self.batch_size = batch_size
        self._batches = [
            places[start : start + batch_size]
            for places in groups.values()
            for start in range(0, len(places), batch_size)
        ]

    def __len__(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        """Positions of the images of every batch."""
        return iter([list(batch) for batch in self._batches])
