"""Which rows of a data set are this process's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from typing import final

from torch.utils.data import DistributedSampler

from verisal.data.detection import Processes

__all__ = ["ShareSampler", "more_than_a_batch"]


def more_than_a_batch(count: int, batch_size: int, processes: Processes) -> bool:
    """Whether a process's share of training rows is more than one batch, so that a short last one may go."""
    return math.ceil(count / processes.world_size) > batch_size


@final
class ShareSampler(DistributedSampler[int]):
    """Every ``world_size``-th row in order, without padding, so that no row is counted twice.

    A process beyond the number of rows gets a copy of one: whoever had none would leave out the end of the
    epoch, at which the others wait. Tables know rows by their names and drop the copy.

    A ``DistributedSampler`` by name only: Lightning wraps a sampler of any other kind in one of its own,
    which would share out this process's share once more and lose the rest.
    """

    def __init__(self, dataset: Sized, processes: Processes) -> None:
        rank, world_size = processes.rank, processes.world_size
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]  # reads its length
        count = len(dataset)
        self._rows = range(rank % max(1, count) if rank >= count else rank, count, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
