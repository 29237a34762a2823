"""The first samples of a data set or loader of anybody's, as one batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import cast

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, default_collate

from verisal.callbacks._batches import Reader, Undoes, as_batch, read
from verisal.callbacks._formats.parts import is_sample
from verisal.callbacks._formats.values import shown
from verisal.errors import ConfigError
from verisal.types import Batch

_CHUNK = 32


def first_samples(
    source: object,
    count: int,
    normalization: Undoes,
    *,
    reader: Reader | None = None,
    class_names: Sequence[str] | None = None,
) -> Batch:
    """The first ``count`` samples, or all where there are fewer, in [0, 1] on the CPU.

    A loader is read by its own sampler and collate function, in this process; one that shuffles gives the
    same samples every time. No global random number is drawn.

    Args:
        source: a data set, a loader, or anything that gives batches or samples one after the other.
        count: number of samples.
        normalization: that is applied to the images.
        reader: makes something that is understood of a batch, as of :func:`.read`.
        class_names: of the classes, for labels that are words.

    Raises:
        ConfigError: nothing to read, or a format that cannot be understood.
        DataError: annotations or pixels that do not fit.
    """
    parts: list[Batch] = []
    with isolate_rng():
        torch.manual_seed(0)
        for batch in _batches_of(source, collated=reader is not None):
            part = as_batch(read(batch, reader, class_names=class_names), normalization)
            parts.append(part.to("cpu"))
            if sum(map(len, parts)) >= count:
                break
    if not sum(map(len, parts)):
        raise ConfigError(f"expected a data set or loader with samples, found {shown(source)} without any")
    return _joined(parts).rows(range(min(count, sum(map(len, parts)))))


def _batches_of(source: object, *, collated: bool) -> Iterator[object]:
    """Batches of a loader, or samples in lists, collated where a function of the user's reads them."""
    if isinstance(source, DataLoader):
        yield from _in_this_process(source)
        return
    items = _items_of(source)
    first = list(islice(items, 1))
    items = chain(first, items)
    if first and not is_sample(first[0]) and not isinstance(source, Dataset):
        yield from items
        return
    while samples := list(islice(items, _CHUNK)):
        yield _collated(samples) if collated else samples


def _items_of(source: object) -> Iterator[object]:
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
        # Most data sets know their length but do not stop by an IndexError.
        return (source[index] for index in range(len(source)))  # type: ignore[arg-type]  # sized
    if not isinstance(source, Iterable):
        raise ConfigError(f"expected a data set or a loader, found {shown(source)}")
    return iter(source)


def _in_this_process(loader: DataLoader[object]) -> Iterator[object]:
    """Batches of a loader, the same in every process, without its workers: an evaluation may use them."""
    data, collate = loader.dataset, loader.collate_fn
    if isinstance(data, IterableDataset) or isinstance(loader.sampler, DistributedSampler):
        yield from DataLoader(data, batch_size=loader.batch_size, collate_fn=collate)
    elif loader.batch_sampler is None:
        yield from DataLoader(data, batch_size=None, sampler=loader.sampler, collate_fn=collate)
    else:
        yield from DataLoader(data, batch_sampler=loader.batch_sampler, collate_fn=collate)


def _collated(samples: Sequence[object]) -> object:
    """A batch as loaders give it by default, or as torchvision's detection references collate."""
    try:
        return default_collate(list(samples))
    except (TypeError, RuntimeError, KeyError):
        return tuple(zip(*cast("Sequence[Sequence[object]]", samples), strict=True))


def _joined(batches: Sequence[Batch]) -> Batch:
    if sizes := {batch.images.shape[1:] for batch in batches[1:]} - {batches[0].images.shape[1:]}:
        raise ConfigError(
            f"images must be equally large, found {tuple(batches[0].images.shape[1:])} and"
            f" {tuple(sizes.pop())}; resize them in the transform"
        )

    def all_of(name: str) -> tuple[Tensor, ...]:
        return tuple(chain.from_iterable(getattr(batch, name) for batch in batches))

    return Batch(
        images=torch.cat([batch.images for batch in batches]),
        labels=torch.cat([batch.labels for batch in batches]),
        image_ids=tuple(chain.from_iterable(batch.image_ids for batch in batches)),
        object_labels=all_of("object_labels"),
        object_masks=all_of("object_masks"),
        boxes=all_of("boxes"),
        difficult=all_of("difficult"),
    )
