"""Which images of an evaluation are explained: all, or a fixed seeded subset by position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

import torch
from lightning.pytorch import Trainer
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from verisal.errors import ConfigError
from verisal.functional.scopes import rng_preserved
from verisal.functional.seeding import derive_seed

__all__ = ["Subset", "loaders_of"]


def loaders_of(trainer: Trainer) -> list[DataLoader[object]]:
    """The loaders that the running evaluation reads, as this process reads them.

    Raises:
        ConfigError: something other than loaders.
    """
    loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    listed = [loaders] if isinstance(loaders, DataLoader) else list(loaders or ())
    for loader in listed:
        if not isinstance(loader, DataLoader):
            raise ConfigError(
                f"explaining callbacks read torch DataLoaders, found {type(loader).__name__} among the"
                " evaluation's loaders; return one loader or a list of them"
            )
    return listed


@final
class Subset:
    """Positions in the data set, drawn once by seed: the same in every epoch and on any number of processes.

    Args:
        loaders: of the evaluation, as this process reads them.
        max_images: at most this many images; None for all.
        seed: of the draw.

    Raises:
        ConfigError: a loader that shuffles, or whose batches are not known beforehand.
    """

    def __init__(self, loaders: Sequence[DataLoader[object]], *, max_images: int | None, seed: int) -> None:
        self._rows: list[list[list[int]]] | None = None
        self._batches = [len(loader) for loader in loaders]
        if max_images is None:
            return
        sizes = [len(loader.dataset) for loader in loaders]  # type: ignore[arg-type]  # sized, see below
        generator = torch.Generator().manual_seed(derive_seed(seed, "explained images"))
        chosen = set(torch.randperm(sum(sizes), generator=generator)[:max_images].tolist())
        self._rows, start = [], 0
        for loader, size in zip(loaders, sizes, strict=True):
            positions = _positions(loader)
            self._rows.append(
                [[row for row, place in enumerate(batch) if start + place in chosen] for batch in positions]
            )
            start += size

    def of_batch(self, loader: int, batch: int, size: int) -> Sequence[int]:
        """Rows of a batch that are explained."""
        return range(size) if self._rows is None else self._rows[loader][batch]

    def batches(self, limits: Sequence[int | float]) -> int:
        """How many batches hold an image to explain, of the first so many of every loader."""
        if self._rows is None:
            return sum(int(min(count, limit)) for count, limit in zip(self._batches, limits, strict=True))
        return sum(
            bool(rows) and index < limit
            for batches, limit in zip(self._rows, limits, strict=True)
            for index, rows in enumerate(batches)
        )


def _positions(loader: DataLoader[object]) -> list[list[int]]:
    sampler: Iterable[Sequence[int]] | None = loader.batch_sampler
    inner = sampler.sampler if isinstance(sampler, BatchSampler) else None
    if sampler is None or isinstance(inner, RandomSampler) or isinstance(loader.sampler, RandomSampler):
        raise ConfigError(
            "max_images needs an evaluation loader that reads a data set of known size in a fixed order,"
            f" found one with {type(loader.sampler).__name__}; leave out shuffle, or set max_images: null"
        )
    with rng_preserved():
        return [list(batch) for batch in sampler]
