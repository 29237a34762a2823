"""What is left of a map when the class that is asked for is less and less likely."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from verisal._numbers import check_range
from verisal.errors import DataError
from verisal.functional.comparison.similarity import spearman, ssim
from verisal.functional.regions.boxes import nearest_ious
from verisal.functional.regions.localisation import frozen_boxes, threshold_level
from verisal.functional.statistics.resampled import Bootstrap
from verisal.metrics._base import ImageTable
from verisal.metrics.disturbed import kind_of
from verisal.results import Score
from verisal.types import SaliencyResult

__all__ = ["ClassRankScores"]

_IOU = 0.5
_OF_RANK = ("response", "norm", "spearman", "ssim", "false_rel", "false_abs")
_TINY = torch.finfo(torch.float64).tiny


@final
class ClassRankScores:
    """Maps of classes of several ranks beside the map of the predicted class.

    One row per image: ``right[c0]``, whether the box of the predicted class's map is right; and for each
    further query

    - ``response``, ``norm``: sum and Euclidean norm of the raw map's magnitudes over those of the first;
    - ``spearman``, ``ssim`` with the first map; undefined for empty maps;
    - ``false_rel``, ``false_abs``: false localisation, the box at the threshold of the map's own range, or at
      the same share of the maximum of the first raw map, is right for the object of the first class;
    - ``margin_rel``, ``margin_abs``: right minus false localisation, image by image.

    Args:
        queries: names of the further queries, in the order of the results, e.g. ``rank2``.
        threshold: of the boxes, tau in [0, 1), chosen on other images; NaN leaves all boxes undefined.
        resamples: bootstrap resamples of the intervals; 0 for none.
        seed: of the resampling.
    """

    def __init__(
        self, queries: Sequence[str], *, threshold: float = math.nan, resamples: int = 2000, seed: int = 0
    ) -> None:
        check_range(0, resamples=resamples, seed=seed)
        if not math.isnan(threshold):
            threshold_level(threshold)
        self.queries, self.threshold = tuple(queries), threshold
        self.resamples, self.seed = resamples, seed
        columns = ["right[c0]", *(f"{name}[{query}]" for query in self.queries for name in _OF_RANK)]
        self.table = ImageTable(columns)

    def rows_of(self, results: Sequence[SaliencyResult], boxes: Sequence[Tensor], *, valid: Tensor) -> Tensor:
        """``(B, R)`` of one batch, for ``table``.

        Args:
            results: of the predicted class, then of each further query, on the same images.
            boxes: per image ``(N, 4)`` boxes of the objects of the predicted class; none leaves boxes
                undefined.
            valid: ``(Q, B)`` bool, whether the further query counts for the image.

        Raises:
            DataError: another number of results or of rows in ``valid`` than there are queries.
        """
        if len(results) != len(self.queries) + 1 or len(valid) != len(self.queries):
            raise DataError(
                f"there must be a result for the predicted class and for each of {list(self.queries)}, and"
                f" as many rows in valid; found {len(results)} and {len(valid)}"
            )
        first = results[0]
        has_box = first.raw.new_tensor([len(own) > 0 for own in boxes], dtype=torch.bool)
        right = self._right(first.saliency, boxes, has_box).where(_finite(first), torch.nan)
        top, total, length = _size(first.raw)
        found = [right[:, None]]
        for result, asked in zip(results[1:], valid, strict=True):
            _, response, norm = _size(result.raw)
            columns = (
                (response / total).where(total > 0, torch.nan),
                (norm / length).where(length > 0, torch.nan),
                spearman(first.saliency, result.saliency),
                ssim(first.saliency, result.saliency),
                self._right(result.saliency, boxes, has_box),
                self._right(result.raw, boxes, has_box, high=top.clamp_min(_TINY)),
            )
            counts = asked & _finite(first) & _finite(result)
            found.append(torch.stack(columns, dim=1).where(counts[:, None], torch.nan))
        return torch.cat(found, dim=1)

    def columns(self) -> tuple[tuple[str, ...], dict[str, Tensor]]:
        """Image ids, and every score's values ``(n,)`` float64 of all processes."""
        table = self.table.compute()
        named = dict(zip(self.table.columns, table.rows.unbind(dim=1), strict=True))
        for query in self.queries:
            for form in ("rel", "abs"):
                named[f"margin_{form}[{query}]"] = named["right[c0]"] - named[f"false_{form}[{query}]"]
        return table.image_ids, named

    def scores_of(self, columns: Mapping[str, Tensor]) -> dict[str, Score]:
        """Means with intervals of what :meth:`columns` gave."""
        bootstrap = Bootstrap(self.resamples, seed=self.seed)
        return {name: bootstrap.mean(own, kind=kind_of(name)).score() for name, own in columns.items()}

    def _right(
        self, maps: Tensor, boxes: Sequence[Tensor], has_box: Tensor, *, high: Tensor | None = None
    ) -> Tensor:
        if math.isnan(self.threshold):
            return torch.full((len(maps),), torch.nan, dtype=torch.float64, device=maps.device)
        ious = nearest_ious(frozen_boxes(maps, self.threshold, high=high), boxes)
        return (ious >= _IOU).double().where(has_box, torch.nan)


def _finite(result: SaliencyResult) -> Tensor:
    return result.saliency.flatten(1).isfinite().all(dim=1) & result.raw.flatten(1).isfinite().all(dim=1)


def _size(raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Maximum, sum of magnitudes and Euclidean norm of each map."""
    values = raw.double().flatten(1)
    return values.amax(dim=1), values.abs().sum(dim=1), values.norm(dim=1)
