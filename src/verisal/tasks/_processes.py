"""What several processes must agree on, and which images are whose."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch import distributed

__all__ = ["agree_on_buffers", "positions", "share_of"]


def agree_on_buffers(module: LightningModule) -> None:
    """Give every process the buffers of the first, whose weights are saved.

    In training each process moves the running statistics of its batch normalisations by its own images; a
    validation of several networks would be that of none. Called on each process.
    """
    if module.trainer.world_size > 1:
        for buffer in module.buffers():
            distributed.broadcast(buffer, src=0)


def positions(module: LightningModule, seen: int, count: int) -> range:
    """Places in the data set of the next ``count`` images of an evaluation.

    Args:
        module: whose trainer reads every ``world_size``-th image, in order.
        seen: images that this process has read before.
        count: of the batch.
    """
    rank, world_size = module.trainer.global_rank, module.trainer.world_size
    return range(seen * world_size + rank, (seen + count) * world_size, world_size)


def share_of(module: LightningModule, count: int) -> int:
    """This process's part of a number of images that all together may use."""
    whole, rest = divmod(count, module.trainer.world_size)
    return whole + (module.trainer.global_rank < rest)
