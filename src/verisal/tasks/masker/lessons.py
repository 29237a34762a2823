"""What a mask model is taught with: queries, and optimised gates, which a resumed run makes again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import torch
from torch import Tensor, distributed

from verisal.types import Batch

Group = tuple[list[str], list[int]]


def drawn_queries(logits: Tensor) -> Tensor:
    """``(B,)``: a class per image, by its rank.

    The first for half of the images; the second, the last and a random one outside the first five equally
    often for the others.
    """
    batch, classes = logits.shape
    kind = torch.randint(0, 6, (batch,), device=logits.device)
    far = torch.randint(min(5, classes - 1), classes, (batch,), device=logits.device)
    rank = torch.where(kind < 3, 0, torch.where(kind == 3, 1, torch.where(kind == 4, classes - 1, far)))
    return logits.argsort(dim=1, descending=True).gather(1, rank[:, None])[:, 0]


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

    def teach(
        self, batch: Batch, query: Tensor, *, room: int, make: Callable[[Batch, Tensor], Sequence[Tensor]]
    ) -> dict[int, list[Tensor]]:
        """What is known by row of the batch; ``query`` is set to its classes in place.

        Args:
            batch: of training images.
            query: ``(B,)`` int64.
            room: images that may be known in all; what is missing is made now.
            make: gates, or whatever is taught, per stage ``(n, ...)`` of some images and classes.
        """
        missing = [row for row, name in enumerate(batch.image_ids) if name not in self]
        if new := missing[: max(0, room - len(self))]:
            part, asked = batch.rows(new), query[torch.tensor(new, device=query.device)]
            self.add(part.image_ids, asked.tolist(), make(part, asked))
        taught = {}
        for row, name in enumerate(batch.image_ids):
            if name in self:
                query[row], taught[row] = self[name]
        return taught

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
