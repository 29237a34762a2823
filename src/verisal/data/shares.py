"""Which rows of a data set are this process's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sized
from dataclasses import dataclass
from typing import Protocol, Self, final

from torch.utils.data import DistributedSampler

from verisal._numbers import check_range


class _Ranked(Protocol):
    """What is asked of a trainer."""

    @property
    def global_rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...


@dataclass(frozen=True)
class Processes:
    """This process among those that share the work."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        check_range(1, world_size=self.world_size)
        check_range(0, self.world_size - 1, rank=self.rank)

    @classmethod
    def of(cls, trainer: _Ranked | None) -> Self:
        """This process among those of a trainer; alone without one."""
        return cls() if trainer is None else cls(trainer.global_rank, trainer.world_size)


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
