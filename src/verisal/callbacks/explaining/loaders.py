"""Loaders of an evaluation, and their sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, IterableDataset

from verisal.errors import ConfigError


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
        raise ConfigError(
            "explaining callbacks found no loader of the evaluation; give the trainer one of validation or"
            " test data"
        )
    return loaders


def datasets_of(loaders: Sequence[Any]) -> list[object]:
    """What the loaders read from, where they say it."""
    return [loader.dataset for loader in loaders if isinstance(loader, DataLoader)]


def is_sized(loader: DataLoader[Any]) -> bool:
    """True for data of known size that the loader makes batches of."""
    return not isinstance(loader.dataset, IterableDataset) and loader.batch_sampler is not None


def batches_of(trainer: Trainer) -> list[int]:
    """Batches that this process reads of every loader; 1 where nobody knows beforehand."""
    limits = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
    return [int(limit) if math.isfinite(limit) else 1 for limit in limits]


def all_batches(trainer: Trainer) -> bool:
    """True if the evaluation reads its loaders to their end."""
    return (trainer.limit_test_batches if trainer.testing else trainer.limit_val_batches) == 1.0


def images_of(loaders: Sequence[Any]) -> int | None:
    """Images in the data of all loaders, None where one does not say."""
    datasets = datasets_of(loaders)
    if len(datasets) < len(loaders) or any(isinstance(dataset, IterableDataset) for dataset in datasets):
        return None
    return sum(len(dataset) for dataset in datasets)  # type: ignore[misc,arg-type]  # sized
