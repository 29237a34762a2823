"""Optimised gates that a mask model is taught with; a resumed run makes the same ones again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor, distributed

from verisal.types import Batch

Group = tuple[list[str], list[int]]


@final
class Lessons:
    """Query class and gates by the image's name.

    Gates are too many for a checkpoint. It holds the images that were optimised together and their classes:
    made again in the same groups, gates are the same bit for bit.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, list[Tensor]]] = {}
        self._groups: list[Group] = []

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __getitem__(self, name: str) -> tuple[int, list[Tensor]]:
        return self._known[name]

    def add(self, names: Sequence[str], classes: Sequence[int], gates: Sequence[Tensor]) -> None:
        """Take the gates of one group, per stage ``(n, ...)``."""
        self._groups.append((list(names), list(classes)))
        for row, (name, known) in enumerate(zip(names, classes, strict=True)):
            self._known[name] = (known, [gate[row].half() for gate in gates])

    def groups(self) -> list[list[Group]]:
        """Groups of every process, as plain data; called on each of them."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return [self._groups]
        parts: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, self._groups)
        return parts


def batches_of(groups: Sequence[Group], loader: Any) -> Iterator[tuple[Batch, Tensor]]:  # noqa: ANN401 - any loader
    """Images and classes of each group, as the loader stacks them."""
    wanted = {name for names, _ in groups for name in names}
    samples: dict[str, Any] = {}
    for index in range(len(loader.dataset)):
        if len(samples) == len(wanted):
            break
        sample = loader.dataset[index]
        if sample.image_id in wanted:
            samples[sample.image_id] = sample
    for names, classes in groups:
        if all(name in samples for name in names):
            yield loader.collate_fn([samples[name] for name in names]), torch.tensor(classes)
