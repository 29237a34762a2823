"""The images of an evaluation that are explained: the same in every epoch and on any number of processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from verisal.callbacks.explaining.loaders import is_sized
from verisal.callbacks.explaining.processes import agreed
from verisal.functional.scopes import rng_preserved
from verisal.functional.seeding import derive_seed
from verisal.types import Batch

_STREAM = "explained images"
_LARGEST = 2**63


class Subset(ABC):
    """Which rows of which batch are explained.

    Attributes:
        described: how they were chosen, in words; empty for a fixed number drawn by their positions.
    """

    described: str = ""

    @abstractmethod
    def rows(self, loader: int, number: int, batch: Callable[[], Batch]) -> Sequence[int]:
        """Rows of a batch, named by its loader's number and its own, which is read only if it must be."""

    def steps(self, batches: Sequence[int]) -> int:
        """Batches with rows among the first ones of every loader; may be overridden."""
        return sum(batches)


@final
class Everything(Subset):
    """All images."""

    def rows(self, loader: int, number: int, batch: Callable[[], Batch]) -> Sequence[int]:
        """All rows."""
        return range(len(batch()))


@final
class Nobody(Subset):
    """No image, of a callback that brings images of its own."""

    def rows(self, loader: int, number: int, batch: Callable[[], Batch]) -> Sequence[int]:
        """No row, and no batch is read."""
        return range(0)

    def steps(self, batches: Sequence[int]) -> int:
        """No batch."""
        return 0


@final
class Drawn(Subset):
    """Images drawn by their positions in the data.

    Args:
        chosen: rows by loader and batch.
    """

    def __init__(self, chosen: list[list[list[int]]]) -> None:
        self.chosen = chosen

    def rows(self, loader: int, number: int, batch: Callable[[], Batch]) -> Sequence[int]:
        """Rows that were drawn."""
        return self.chosen[loader][number]

    def steps(self, batches: Sequence[int]) -> int:
        """Batches with a drawn image."""
        pairs = zip(self.chosen, batches, strict=True)
        return sum(bool(rows) for own, count in pairs for rows in own[:count])


@final
class ByContent(Subset):
    """Images whose names say so, whatever the order in which they come.

    Args:
        share: of the images.
        seed: of the choice.
        described: in words.
    """

    def __init__(self, share: float, *, seed: int, described: str) -> None:
        self.share, self.seed, self.described = share, seed, described

    def rows(self, loader: int, number: int, batch: Callable[[], Batch]) -> Sequence[int]:
        """Rows whose name's number is in the lowest share."""
        ids = batch().image_ids
        numbers = [derive_seed(self.seed, _STREAM, image_id) for image_id in ids]
        return [row for row, value in enumerate(numbers) if value < self.share * _LARGEST]


@final
class First(Subset):
    """The first images that come.

    Args:
        count: on this process.
        described: in words.
    """

    def __init__(self, count: int, *, described: str) -> None:
        self.left, self.described = count, described

    def rows(self, loader: int, number: int, batch: Callable[[], Batch]) -> Sequence[int]:
        """Rows as long as there are any left."""
        taken = range(min(self.left, len(batch()))) if self.left else range(0)
        self.left -= len(taken)
        return taken


def subset_of(
    loaders: Sequence[Any],
    *,
    max_images: int | None,
    seed: int,
    limits: Sequence[int] | None = None,
    rank: int = 0,
    processes: int = 1,
) -> Subset:
    """The images that are explained.

    They are drawn by their positions where loaders read data of known size in a fixed order, chosen by their
    names, which their content gives, where the order changes, and the first ones where the size is unknown.

    Args:
        loaders: of the evaluation, as this process reads them.
        max_images: at most this many images; None for all.
        seed: of the draw.
        limits: batches that are read of every loader; None where they are read to their end.
        rank: number of this process.
        processes: number of processes.
    """
    if max_images is None:
        return Everything()
    if not all(isinstance(loader, DataLoader) and is_sized(loader) for loader in loaders):
        own = max_images // processes + (rank < max_images % processes)
        return First(own, described=f"the first {max_images} images, as the data says no size")
    sizes = [len(loader.dataset) for loader in loaders]
    if max_images >= sum(sizes):
        return Everything()
    positions = [_positions(loader) for loader in loaders]
    if any(own is None for own in positions):
        words = f"about {max_images} of {sum(sizes)} images, by their content, as the loader shuffles"
        return ByContent(max_images / sum(sizes), seed=seed, described=words)
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    placed = [
        [[start + place for place in batch] for batch in own or ()]
        for start, own in zip(starts, positions, strict=True)
    ]
    pool: Sequence[int] = range(sum(sizes))
    if limits is not None:
        read = {
            place
            for own, count in zip(placed, limits, strict=True)
            for batch in own[:count]
            for place in batch
        }
        pool = sorted(set().union(*agreed(lambda: read)))
    generator = torch.Generator().manual_seed(derive_seed(seed, _STREAM))
    drawn = {pool[place] for place in torch.randperm(len(pool), generator=generator)[:max_images].tolist()}
    return Drawn(
        [[[row for row, place in enumerate(batch) if place in drawn] for batch in own] for own in placed]
    )


def _positions(loader: DataLoader[Any]) -> list[list[int]] | None:
    """Positions in the data by batch; None where they are others each time."""
    sampler: Iterable[Sequence[int]] | None = loader.batch_sampler
    inner = sampler.sampler if isinstance(sampler, BatchSampler) else loader.sampler
    if sampler is None or isinstance(inner, RandomSampler):
        return None
    passes = []
    with rng_preserved():
        for seed in range(2):
            torch.manual_seed(seed)
            passes.append([list(batch) for batch in sampler])
    return passes[0] if passes[0] == passes[1] else None
