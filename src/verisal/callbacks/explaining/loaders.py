"""Loaders of an evaluation, and their sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from os.path import relpath
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler, Subset

from verisal.data import AnnotatedImages, Composition, DiskSplit
from verisal.errors import ConfigError
from verisal.types import Batch, Sample


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


def further_samples(loader: object, source: Composition | DiskSplit, count: int) -> Dataset[Sample]:
    """Another split of the photographs that a loader reads, or scenes that are made of them.

    Args:
        loader: of the evaluation.
        source: how scenes are made, or the name of the split.
        count: of the split's images that are wanted at most.

    Raises:
        ConfigError: the loader reads something else.
    """
    data = loader.dataset if isinstance(loader, DataLoader) else loader
    if not isinstance(data, AnnotatedImages):
        wanted = f"split {source!r}" if isinstance(source, str) else type(source).__name__
        raise ConfigError(
            f"{wanted} is of photographs on disk, and the evaluation reads {type(data).__name__}; give"
            " ImageData splits and no composition, or say the data set itself in its place"
        )
    if isinstance(source, Composition):
        return source.of(data)
    return data.of_split(source, at_most=count)


def datasets_of(loaders: Sequence[Any]) -> list[object]:
    """What the loaders read from, where they say it."""
    return [loader.dataset for loader in loaders if isinstance(loader, DataLoader)]


def files_of(trainer: Trainer, number: int, place: int, batch: Batch) -> dict[str, str]:
    """Files of the images of a batch, relative to their folder, by the ids; nothing where nobody knows them.

    Known are those of data sets such as torchvision's ``ImageFolder``, with ``root`` and ``samples``, also
    behind ``Subset``, where the loader reads one after the other.

    Args:
        trainer: that runs the evaluation.
        number: of the loader.
        place: of the batch.
        batch: as it was read.
    """
    loader = loaders_of(trainer)[number]
    # A batch sampler of the user's has no batch size, and another order.
    if not isinstance(loader, DataLoader) or not isinstance(loader.sampler, SequentialSampler):
        return {}
    if loader.batch_size is None or isinstance(loader.dataset, IterableDataset):
        return {}
    places = range(len(loader.dataset))[place * loader.batch_size :][: loader.batch_size]  # type: ignore[arg-type]  # sized
    # A collate function may leave samples out.
    if len(places) != len(batch):
        return {}
    pairs = zip(batch.image_ids, places, strict=True)
    found = {image_id: _file_of(loader.dataset, index) for image_id, index in pairs}
    return {image_id: file for image_id, file in found.items() if file}


def _file_of(dataset: Any, place: int) -> str:  # noqa: ANN401 - anybody's
    while isinstance(dataset, Subset):
        dataset, place = dataset.dataset, dataset.indices[place]
    root, samples = getattr(dataset, "root", None), getattr(dataset, "samples", None)
    known = isinstance(root, str | PathLike) and isinstance(samples, Sequence) and place < len(samples)
    pair = samples[place] if known else None  # type: ignore[index]  # a sequence
    return relpath(pair[0], root) if isinstance(pair, tuple) and isinstance(pair[0], str) else ""


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
