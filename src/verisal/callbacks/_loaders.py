"""Loaders of an evaluation, and the fixed subset of their images that is explained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from verisal.errors import ConfigError
from verisal.functional.scopes import rng_preserved
from verisal.functional.seeding import derive_seed

Chosen = list[list[list[int]]]
"""By loader and batch the rows that are explained."""


def loaders_of(trainer: Trainer) -> list[Any]:
    """The loaders that the running evaluation reads, as this process reads them."""
    loops = {
        TrainerFn.FITTING: trainer.fit_loop.epoch_loop.val_loop,
        TrainerFn.VALIDATING: trainer.validate_loop,
        TrainerFn.TESTING: trainer.test_loop,
    }
    # The trainer's own list is that of a fit even in a validation after it.
    combined = loops[trainer.state.fn]._combined_loader if trainer.state.fn in loops else None
    loaders = list(combined.flattened) if combined is not None else []
    if not loaders:
        raise ConfigError("explaining callbacks found no loader of the evaluation")
    return loaders


def datasets_of(loaders: Sequence[Any]) -> list[object]:
    """What the loaders read from, where they say it."""
    return [loader.dataset for loader in loaders if isinstance(loader, DataLoader)]


def chosen_rows(loaders: Sequence[Any], *, max_images: int | None, seed: int) -> Chosen | None:
    """Rows of a fixed subset, the same in every epoch and on any number of processes; None for all rows.

    Args:
        loaders: of the evaluation, as this process reads them.
        max_images: at most this many images, drawn by their positions in the data; None for all.
        seed: of the draw.

    Raises:
        ConfigError: a loader that shuffles, or whose batches are not known beforehand.
    """
    if max_images is None:
        return None
    sizes = [len(loader.dataset) for loader in loaders]
    generator = torch.Generator().manual_seed(derive_seed(seed, "explained images"))
    drawn = set(torch.randperm(sum(sizes), generator=generator)[:max_images].tolist())
    chosen: Chosen = []
    start = 0
    for loader, size in zip(loaders, sizes, strict=True):
        batches = _positions(loader)
        chosen.append(
            [[row for row, place in enumerate(batch) if start + place in drawn] for batch in batches]
        )
        start += size
    return chosen


def batches_with_rows(chosen: Chosen | None, batches: Sequence[int]) -> int:
    """Number of batches with an image to explain among the first ``batches`` of every loader."""
    if chosen is None:
        return sum(batches)
    return sum(bool(rows) for own, count in zip(chosen, batches, strict=True) for rows in own[:count])


def _positions(loader: Any) -> list[list[int]]:  # noqa: ANN401 - anybody's loader
    sampler: Iterable[Sequence[int]] | None = loader.batch_sampler
    inner = sampler.sampler if isinstance(sampler, BatchSampler) else None
    if sampler is None or isinstance(inner, RandomSampler) or isinstance(loader.sampler, RandomSampler):
        raise ConfigError(
            "max_images needs an evaluation loader that reads a data set of known size in a fixed order,"
            f" found one with {type(loader.sampler).__name__}; leave out shuffle, or set max_images: null"
        )
    with rng_preserved():
        return [list(batch) for batch in sampler]
