"""Detector scores gathered over batches and processes into one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torchmetrics import Metric

from verisal.errors import ConfigError, DataError


@final
class DetectionTable:
    """Scores of every image of every group, sorted by group, then image, without duplicates.

    An ordinary class, not a dataclass: torchmetrics walks into dataclasses and squeezes tensors of one item.

    Args:
        scores: ``(N, rows, members)`` float64.
        image_index: ``(N,)`` int64, the same for an image and everything made from it.
        group: ``(N,)`` int64.
    """

    __slots__ = ("group", "image_index", "scores")

    def __init__(self, scores: Tensor, *, image_index: Tensor, group: Tensor) -> None:
        self.scores = scores
        self.image_index = image_index
        self.group = group

    def __len__(self) -> int:
        return len(self.group)

    def row_scores(self, row: int) -> Tensor:
        """``(N,)`` float64: a row's own score, the mean over its members."""
        return self.scores[:, row].mean(dim=1)

    def of_group(self, group: int) -> DetectionTable:
        """The part of the table that belongs to one group."""
        kept = self.group == group
        return DetectionTable(self.scores[kept], image_index=self.image_index[kept], group=self.group[kept])


@final
class DetectionScores(Metric):
    """Keeps detector scores per image until the epoch ends; :meth:`compute` gives one table.

    The table is keyed by (image, group) and sorted, so it is the same on one process and on many. Copies
    that a padding sampler adds are dropped.

    Args:
        rows: names of the detectors, in the order of the score tensor's second axis.
        members: scores per detector and image, e.g. one per seed; a detector with fewer repeats
            its score.

    Raises:
        ConfigError: no row, a name twice, or less than one member.
    """

    full_state_update = False
    scores: list[Tensor]
    image_index: list[Tensor]
    group: list[Tensor]

    def __init__(self, rows: Sequence[str], members: int = 1) -> None:
        super().__init__()
        if not rows or len(set(rows)) != len(rows) or members < 1:
            raise ConfigError(
                f"detection scores need different row names and at least one member,"
                f" found rows {list(rows)} and {members} members"
            )
        self.rows = tuple(rows)
        self.members = members
        for name in ("scores", "image_index", "group"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._append_nothing()

    def update(self, scores: Tensor, image_index: Tensor, group: Tensor) -> None:
        """Add a batch.

        Args:
            scores: ``(B, rows)`` or ``(B, rows, members)`` float, higher = more adversarial; NaN where a
                detector could not score an image.
            image_index: ``(B,)`` int64, position of the *clean* image in its split.
            group: ``(B,)`` int64, what was done to the image.

        Raises:
            DataError: shapes that do not fit.
        """
        if scores.ndim == 2 and self.members == 1:
            scores = scores.unsqueeze(2)
        expected = (len(image_index), len(self.rows), self.members)
        if tuple(scores.shape) != expected or image_index.shape != group.shape or image_index.ndim != 1:
            raise DataError(
                f"detector scores must be {expected} (images, rows, members) with an index and a group each,"
                f" found {tuple(scores.shape)}, {tuple(image_index.shape)} and {tuple(group.shape)}"
            )
        self.scores.append(scores.detach().to(self.device, torch.float64))
        self.image_index.append(image_index.detach().to(self.device, torch.int64))
        self.group.append(group.detach().to(self.device, torch.int64))

    def compute(self) -> DetectionTable:
        """All scores of all processes, on the CPU.

        Raises:
            DataError: two different scores under one (image, group).
        """
        scores, image_index, group = (
            torch.cat(state).cpu() if isinstance(state, list) else state.cpu()
            for state in (self.scores, self.image_index, self.group)
        )
        order = image_index.argsort(stable=True)
        order = order[group[order].argsort(stable=True)]
        scores, image_index, group = scores[order], image_index[order], group[order]
        repeats = (image_index[1:] == image_index[:-1]) & (group[1:] == group[:-1])
        _check_copies(scores, image_index, group, repeats)
        kept = torch.cat([repeats.new_ones(min(1, len(group))), ~repeats])
        return DetectionTable(scores[kept], image_index=image_index[kept], group=group[kept])

    def reset(self) -> None:
        """Forget all scores."""
        super().reset()
        self._append_nothing()

    def _append_nothing(self) -> None:
        # A process that saw no image must still send tensors of the right shape and dtype to the others.
        self.scores.append(
            torch.empty(0, len(self.rows), self.members, dtype=torch.float64, device=self.device)
        )
        self.image_index.append(torch.empty(0, dtype=torch.int64, device=self.device))
        self.group.append(torch.empty(0, dtype=torch.int64, device=self.device))


def _check_copies(scores: Tensor, image_index: Tensor, group: Tensor, repeats: Tensor) -> None:
    # Copies may differ in rounding, because they were scored in other batches; more is a wrong key.
    first, second = scores[:-1][repeats], scores[1:][repeats]
    if torch.allclose(first, second, rtol=1e-2, atol=1e-2, equal_nan=True):
        return
    wrong = ~torch.isclose(first, second, rtol=1e-2, atol=1e-2, equal_nan=True).flatten(1).all(dim=1)
    at = int(repeats.nonzero()[int(wrong.nonzero()[0])])
    raise DataError(
        f"image {int(image_index[at])} of group {int(group[at])} has two different scores;"
        " image_index must name the image within its whole split, not within a batch or process"
    )
