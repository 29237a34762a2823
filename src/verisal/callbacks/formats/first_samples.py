"""The first samples of a data set or loader of anybody's, as one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import cast

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, default_collate

from verisal.callbacks.formats.parts import is_sample
from verisal.callbacks.formats.values import shown
from verisal.errors import ConfigError
from verisal.types import Batch, Sample

_CHUNK = 32


def first_samples(
    source: object,
    count: int,
    batch_of: Callable[[object], Batch],
    *,
    collate: Callable[[list[object]], object] | None = None,
) -> Batch:
    """The first ``count`` samples, or all where there are fewer, on the CPU.

    A loader is read by its own sampler and collate function, in this process; one that shuffles gives the
    same samples every time. No global random number is drawn.

    Args:
        source: a data set, a loader, or anything that gives batches or samples one after the other.
        count: number of samples.
        batch_of: reads what a loader gives, or a list of samples.
        collate: makes a batch of a data set's samples; None where ``batch_of`` takes the list.

    Raises:
        ConfigError: nothing to read, or images of several sizes.
    """
    parts: list[Batch] = []
    # A loader's sampler and a data set's transforms may draw.
    with isolate_rng():
        torch.manual_seed(0)
        for batch in _batches_of(source, collate):
            parts.append(batch_of(batch).to("cpu"))
            if sum(map(len, parts)) >= count:
                break
    if not sum(map(len, parts)):
        raise ConfigError(
            f"expected a data set or loader with samples, found {shown(source)} without any; give one that"
            " can be read from its beginning each time"
        )
    return _joined(parts).rows(range(min(count, sum(map(len, parts)))))


def collate_by_default(samples: list[object]) -> object:
    """A batch as loaders give it by default, or as torchvision's detection references collate."""
    try:
        return default_collate(samples)
    except (TypeError, RuntimeError, KeyError):
        return tuple(zip(*cast("Sequence[Sequence[object]]", samples), strict=True))


def collate_like(loader: object, *, reader: object) -> Callable[[list[object]], object] | None:
    """What makes batches of another data set's samples for those who read a loader's; None if nothing has to.

    Args:
        loader: whose own collate function is taken, unless it is the default or that of our samples.
        reader: a function of the user's that reads batches of the loader, or None.
    """
    if isinstance(loader, DataLoader) and loader.batch_sampler is not None:
        own = loader.collate_fn
        if own not in (default_collate, Batch.collate):
            return own
    return None if reader is None else collate_by_default


def _batches_of(source: object, collate: Callable[[list[object]], object] | None) -> Iterator[object]:
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
        yield samples if collate is None or isinstance(samples[0], Sample) else collate(samples)


def _items_of(source: object) -> Iterator[object]:
    if isinstance(source, Dataset) and not isinstance(source, IterableDataset):
        # Most data sets know their length but do not stop by an IndexError.
        return (source[index] for index in range(len(source)))  # type: ignore[arg-type]  # sized
    if not isinstance(source, Iterable):
        raise ConfigError(
            f"expected a data set or a loader of samples, found {shown(source)}; give one of them"
        )
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
