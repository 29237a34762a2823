"""Which rows of a data set are this process's."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import final

from torch.utils.data import DistributedSampler

from verisal.data.detection import Processes

__all__ = ["ShareSampler"]


@final
class ShareSampler(DistributedSampler[int]):
    """Every ``world_size``-th row in order, without padding, so that no row is counted twice.

    A ``DistributedSampler`` by name only: Lightning wraps a sampler of any other kind in one of its own,
    which would share out this process's share once more and lose the rest.
    """

    def __init__(self, dataset: Sized, processes: Processes) -> None:
        rank, world_size = processes.rank, processes.world_size
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=False)  # type: ignore[arg-type]  # reads its length
        self._rows = range(rank, len(dataset), world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)
