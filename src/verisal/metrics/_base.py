"""The base of saliency metrics: per-image rows gathered over batches and processes, then reduced."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor
from torchmetrics import Metric

from verisal.errors import DataError
from verisal.functional.statistics.resampled import Bootstrap, Resampled
from verisal.results import Score
from verisal.types import Explained, check_range


class ImageRows:
    """Per-image rows, sorted by image id, without the copies that a padding sampler adds.

    An ordinary class, not a dataclass: torchmetrics walks into dataclasses and squeezes tensors of one item.

    Args:
        image_ids: n names.
        rows: ``(n, R)`` float64 on the CPU.
    """

    __slots__ = ("image_ids", "rows")

    def __init__(self, image_ids: tuple[str, ...], rows: Tensor) -> None:
        self.image_ids = image_ids
        self.rows = rows


@final
class ImageTable(Metric):
    """Rows per image, gathered over batches and processes; :meth:`compute` gives :class:`ImageRows`.

    Several processes give exactly the rows of one, on uneven data too: rows are keyed by image id.

    Args:
        columns: names of the R values kept per image.
    """

    full_state_update = False
    image_ids: list[Tensor]
    rows: list[Tensor]

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__()
        self.columns = tuple(columns)
        for state in ("image_ids", "rows"):
            self.add_state(state, default=[], dist_reduce_fx="cat")
        self._append_nothing()

    def update(self, image_ids: Sequence[str], rows: Tensor) -> None:
        """Add a batch: B names and ``(B, R)`` values.

        Raises:
            DataError: rows of a wrong shape.
        """
        expected = (len(image_ids), len(self.columns))
        if tuple(rows.shape) != expected:
            raise DataError(f"rows must be {expected}, one per image and column, found {tuple(rows.shape)}")
        self.rows.append(rows.detach().to(self.device, torch.float64))
        self.image_ids.append(_encoded(image_ids).to(self.device))

    def compute(self) -> ImageRows:
        """The rows of all processes, on the CPU."""
        image_ids, rows = (
            torch.cat(state).cpu() if isinstance(state, list) else state.cpu()
            for state in (self.image_ids, self.rows)
        )
        # Of two copies of an image the first is kept; they differ by rounding at most.
        by_id = {name: index for index, name in reversed(list(enumerate(_decoded(image_ids))))}
        names = sorted(by_id)
        return ImageRows(tuple(names), rows[[by_id[name] for name in names]])

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._append_nothing()

    def _append_nothing(self) -> None:
        # A process that saw no image must still send tensors of the right shape and dtype to the others.
        self.image_ids.append(torch.empty(0, dtype=torch.uint8, device=self.device))
        self.rows.append(torch.empty(0, len(self.columns), dtype=torch.float64, device=self.device))
        # And it is no mistake: torchmetrics would warn about it.
        self._update_count = 1


class SaliencyMetric(Metric, ABC):
    """A score of saliency maps, kept per image until the epoch ends.

    Sub-classes set ``name`` and ``columns`` and say what a batch's rows are and how rows become scores.
    ``better`` says which end of the metric's first score is good, where one is.

    Args:
        name: of the metric with every setting that changes its value: ``deletion[dataset_mean]``.
        columns: names of the R values kept per image.
        seed: of what the metric draws, where it draws anything.
    """

    full_state_update = False
    better: Literal["high", "low", ""] = ""

    def __init__(self, name: str, columns: Sequence[str], *, seed: int = 0) -> None:
        super().__init__()
        check_range(0, seed=seed)
        self.name, self.columns, self.seed = name, tuple(columns), seed
        self._kept = ImageTable(columns)

    @abstractmethod
    def rows_of(self, explained: Explained) -> Tensor:
        """``(B, R)`` values of one batch on the device of its images; NaN where an image cannot be scored."""

    def reduce(self, rows: Tensor, bootstrap: Bootstrap) -> Mapping[str, Resampled]:
        """Scores by name of ``rows (n, R)``, n at least 1; by default the mean of every column.

        The names are short (``auc``, ``accuracy``); the metric's own name stands before them in a report.
        The bootstrap resamples the n images together.
        """
        return {name: bootstrap.mean(column) for name, column in zip(self.columns, rows.T, strict=True)}

    def update(self, explained: Explained) -> None:
        """Add a batch.

        Raises:
            DataError: rows of a wrong shape.
        """
        self.add_rows(explained.image_ids, self.rows_of(explained))

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        # The table gathers over processes by itself; torchmetrics' wrapper would only squeeze the scores.
        return compute

    def add_rows(self, image_ids: Sequence[str], rows: Tensor) -> None:
        """Add rows that :meth:`rows_of` gave earlier.

        Raises:
            DataError: rows of a wrong shape.
        """
        self._kept.update(image_ids, rows)

    def table(self) -> ImageRows:
        """The rows of all processes."""
        rows: ImageRows = self._kept.compute()
        return rows

    def compute(self, bootstrap: Bootstrap | None = None) -> dict[str, Score]:
        """Every score with its interval over images, how many counted and how many were undefined.

        Raises:
            DataError: no image was added.
        """
        return self.scores_of(self.table(), bootstrap or Bootstrap())

    def scores_of(self, table: ImageRows, bootstrap: Bootstrap) -> dict[str, Score]:
        """The scores of a table, which :meth:`table` has gathered once; its images are resampled together.

        Raises:
            DataError: a table without images.
        """
        rows, n = table.rows, len(table.rows)
        if n == 0:
            raise DataError(f"{self.name}: no image was added before compute()")
        scores = self.reduce(rows, bootstrap.jointly(n))
        return {name: resampled.score() for name, resampled in scores.items()}

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._kept.reset()


def _encoded(image_ids: Sequence[str]) -> Tensor:
    """Names as bytes, each with a zero behind it: what processes can send each other."""
    content = b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in image_ids)
    return torch.tensor(list(content), dtype=torch.uint8)


def _decoded(content: Tensor) -> list[str]:
    return bytes(content.tolist()).decode("utf-8", "surrogateescape").split("\0")[:-1]
