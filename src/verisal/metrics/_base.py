"""What every saliency metric is: per-image rows gathered over batches and processes, then reduced."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor
from torchmetrics import Metric

from verisal._numbers import check_range
from verisal.errors import DataError
from verisal.functional.statistics.detection import bootstrap_weights, percentile_score
from verisal.functional.statistics.intervals import are_hits, weighted_means
from verisal.functional.statistics.shares import plain_rate, share_of_resamples
from verisal.results import Score
from verisal.types import Explained

__all__ = ["ImageRows", "ImageTable", "Reduced", "SaliencyMetric", "reduce_means"]


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


@dataclass(frozen=True)
class Reduced:
    """One score in every resample, and what its 95 % interval is made of.

    Attributes:
        values: ``(S,)`` float64.
        defined: ``(n,)`` bool, which images count.
        limits: ``percentiles`` of the resamples; ``rate``: those of a rate among the images that count;
            ``share``: those of a rate that varies as much as the resamples do; ``none``: it has no interval.
        images: how many images a ``share`` is worth where the resamples do not say; all that count if None.
        ceiling: ``(S,)`` greater values, whose upper limit a ``rate`` takes over.
    """

    values: Tensor
    defined: Tensor
    limits: Literal["percentiles", "rate", "share", "none"] = "percentiles"
    images: float | None = None
    ceiling: Tensor | None = None


def reduce_means(names: Sequence[str], rows: Tensor, weights: Tensor) -> dict[str, Reduced]:
    """The reduction of metrics that are one value per image: the mean of every named column.

    Values that are all 0 or 1 are hits, and their mean is a rate.

    Args:
        names: R names.
        rows: ``(n, R)``; NaN and infinity are undefined.
        weights: ``(S, n)``.
    """
    found = {}
    for index, name in enumerate(names):
        column = rows[:, index]
        defined = column.isfinite()
        limits: Literal["rate", "percentiles"] = "rate" if are_hits(column[defined]) else "percentiles"
        found[name] = Reduced(weighted_means(column, weights), defined, limits)
    return found


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
        resamples: bootstrap resamples of the intervals; 0 for none.
        seed: of the resampling.
    """

    full_state_update = False
    better: Literal["high", "low", ""] = ""

    def __init__(self, name: str, columns: Sequence[str], *, resamples: int = 2000, seed: int = 0) -> None:
        super().__init__()
        check_range(0, resamples=resamples, seed=seed)
        self.name, self.columns = name, tuple(columns)
        self.resamples, self.seed = resamples, seed
        self._kept = ImageTable(columns)

    @abstractmethod
    def rows_of(self, explained: Explained) -> Tensor:
        """``(B, R)`` values of one batch on the device of its images; NaN where an image cannot be scored."""

    @abstractmethod
    def reduce(self, rows: Tensor, weights: Tensor) -> Mapping[str, Reduced]:
        """Scores by name in every resample, from ``rows (n, R)`` and ``weights (S, n)``, n at least 1.

        The names are short (``auc``, ``accuracy``); the metric's own name stands before them in a report.
        """

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

    def compute(self) -> dict[str, Score]:
        """Every score with its interval over images, how many counted and how many were undefined.

        Raises:
            DataError: no image was added.
        """
        return self.scores_of(self.table())

    def scores_of(self, table: ImageRows) -> dict[str, Score]:
        """The scores of a table, which :meth:`table` has gathered once.

        Raises:
            DataError: a table without images.
        """
        rows, n = table.rows, len(table.rows)
        if n == 0:
            raise DataError(f"{self.name}: no image was added before compute()")
        values = self.reduce(rows, torch.ones(1, n, dtype=torch.float64))
        resampled: Mapping[str, Reduced] = {}
        if self.resamples and any(found.limits in ("percentiles", "share") for found in values.values()):
            resampled = self.reduce(rows, bootstrap_weights(n, resamples=self.resamples, seed=self.seed))
        nothing = torch.empty(0)
        return {
            name: _score(found, resampled[name].values if name in resampled else nothing)
            if self.resamples
            else _score(replace(found, limits="none"), nothing)
            for name, found in values.items()
        }

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._kept.reset()


def _score(found: Reduced, resampled: Tensor) -> Score:
    value, n = float(found.values[0]), int(found.defined.sum())
    undefined = len(found.defined) - n
    match found.limits:
        case "percentiles":
            return percentile_score(value, resampled[~resampled.isnan()], n=n, undefined=undefined)
        case "share":
            return share_of_resamples(value, resampled, found.images or n).score(n=n, undefined=undefined)
        case "rate":
            low, high = plain_rate(value, n).limits()
            if found.ceiling is not None:
                high = plain_rate(float(found.ceiling[0]), n).limits()[1]
            return Score(value, low, high, n=n, undefined=undefined)
        case "none":
            return Score(value, math.nan, math.nan, n=n, undefined=undefined)


def _encoded(image_ids: Sequence[str]) -> Tensor:
    """Names as bytes, each with a zero behind it: what processes can send each other."""
    content = b"".join(name.encode("utf-8", "surrogateescape") + b"\0" for name in image_ids)
    return torch.tensor(list(content), dtype=torch.uint8)


def _decoded(content: Tensor) -> list[str]:
    return bytes(content.tolist()).decode("utf-8", "surrogateescape").split("\0")[:-1]
