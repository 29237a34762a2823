"""Maps of other classes beside those of the class that is there: does a map answer what it is asked?"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, final

import torch
from torch import Tensor

from verisal.errors import DataError
from verisal.functional.comparison import spearman, ssim
from verisal.functional.comparison.similarity import defined_maps
from verisal.functional.regions import energy_inside, frozen_boxes
from verisal.functional.regions.boxes import nearest_ious
from verisal.functional.regions.disturbed import QUERIES
from verisal.functional.regions.localisation import threshold_level
from verisal.functional.statistics import Bootstrap
from verisal.metrics._base import SaliencyMetric
from verisal.metrics._given import boxes_of, object_masks_of
from verisal.metrics._table import ImageTable
from verisal.results import Score
from verisal.types import Explained, SaliencyResult

_NAME = "D-WSOL (our protocol)"
_TRUE, *_ABSENT = QUERIES
# Overlap from which a box is right, and share of the energy from which a map has chosen a side.
_IOU, _HALF = 0.5, 0.5
_TINY = torch.finfo(torch.float64).tiny


class _QueryScores(ABC):
    """Rows per image of maps of further classes beside the map of the first; the columns become scores."""

    def __init__(self, columns: Sequence[str], *, threshold: float) -> None:
        if not math.isnan(threshold):
            threshold_level(threshold)
        self.threshold = threshold
        self.table = ImageTable(columns)

    @property
    @abstractmethod
    def margins(self) -> Mapping[str, tuple[str, str]]:
        """Names of the margins to columns: right under the first class, and false localisation."""

    def columns(self) -> tuple[tuple[str, ...], dict[str, Tensor]]:
        """Image ids, and every score's values ``(n,)`` float64 of all processes."""
        table = self.table.compute()
        named = dict(zip(self.table.columns, table.rows.unbind(dim=1), strict=True))
        margins = {name: named[right] - named[false] for name, (right, false) in self.margins.items()}
        return table.image_ids, named | margins

    def scores_of(self, columns: Mapping[str, Tensor], bootstrap: Bootstrap) -> dict[str, Score]:
        """Means with intervals of what :meth:`columns` gave; ``n_empty`` is a count without one."""
        return {name: _score(name, values, bootstrap) for name, values in columns.items()}


@final
class DisturbedScores(_QueryScores):
    """Likeness of maps of absent classes to the map of the true class.

    One row per image: under c0, if the box is right, if the whole image's box would be, and
    if the map is empty; under each absent class, where all that is about boxes is undefined for an image
    without one,

    - ``flr_rel``: false localisation, the box at the threshold of the map's own range is right for the true
      object; ``flr_abs``: the box at the same share of the maximum of the raw c0 map is. No box is none;
    - ``response_ratio``: sum of the raw map's magnitudes over that of the raw c0 map, which must not be 0;
    - ``spearman``, ``ssim`` with the c0 map; undefined for empty maps;
    - ``n_empty``: constant maps.

    A margin, ``margin_rel`` or ``margin_abs``, is accuracy minus false localisation, image by image, on the
    images that have the query. Maps that are not finite are undefined everywhere. The threshold is chosen on
    other images, under c0 alone: :func:`.choose_threshold`.

    Args:
        threshold: tau in [0, 1), frozen; NaN leaves all boxes undefined.

    Raises:
        ConfigError: a threshold outside [0, 1).

    Differs from:
        - The paper's own rules of a disturbed localisation are not known to us; all of these are ours.
    """

    _OF_ABSENT = ("flr_rel", "flr_abs", "response_ratio", "spearman", "ssim", "n_empty")

    def __init__(self, *, threshold: float) -> None:
        of_true = [f"{name}_{_TRUE}" for name in ("accuracy", "whole_image", "n_empty")]
        of_absent = [f"{name}_{query}" for query in _ABSENT for name in self._OF_ABSENT]
        super().__init__([*of_true, *of_absent], threshold=threshold)
        self.name = f"{_NAME}[tau{threshold:g}]"

    @property
    def margins(self) -> Mapping[str, tuple[str, str]]:
        """Of each absent class, by both thresholds."""
        pairs = [f"{form}_{query}" for query in _ABSENT for form in ("rel", "abs")]
        return {f"margin_{pair}": (f"accuracy_{_TRUE}", f"flr_{pair}") for pair in pairs}

    def update(
        self,
        results: Mapping[str, SaliencyResult],
        boxes: Sequence[Tensor],
        *,
        image_ids: Sequence[str],
        valid: Tensor,
    ) -> None:
        """Add a batch.

        Args:
            results: of the four queries c0..c3, from one method on the same images.
            boxes: per image ``(N_i, 4)`` boxes of the objects of its true class.
            image_ids: B stable names.
            valid: ``(4, B)`` bool, from :func:`.disturbed_queries`. Images that do not
                count for c0 count for nothing; their maps are not looked at.

        Raises:
            DataError: a query that is missing, or lengths that differ.
        """
        if set(results) != set(QUERIES) or tuple(valid.shape) != (len(QUERIES), len(image_ids)):
            raise DataError(
                f"{self.name} needs results of {', '.join(QUERIES)} and valid ({len(QUERIES)}, B),"
                f" found {', '.join(sorted(results))} and {tuple(valid.shape)} for {len(image_ids)} images"
            )
        kept = [image_id for image_id, counts in zip(image_ids, valid[0].tolist(), strict=True) if counts]
        self.table.update(kept, self.rows_of([results[query] for query in QUERIES], boxes, valid=valid))

    def rows_of(self, results: Sequence[SaliencyResult], boxes: Sequence[Tensor], *, valid: Tensor) -> Tensor:
        """Rows of the images that count for c0, for ``table``; arguments as of :meth:`update`, in order."""
        kept = torch.nonzero(valid[0])[:, 0]
        true, *absent = (_part(result, kept) for result in results)
        boxes, finite = [boxes[index] for index in kept.tolist()], _finite(true)
        height, width = true.saliency.shape[-2:]
        whole = torch.tensor([0, 0, width, height], device=kept.device).expand(len(kept), 4)
        boxed = _boxed(true, boxes)
        of_true = (
            _right(true.saliency, boxes, self.threshold).where(boxed, torch.nan),
            (nearest_ious(whole, boxes) >= _IOU).double().where(boxed, torch.nan),
            _empty(true),
        )
        rows = [torch.stack(of_true, dim=1).where(finite[:, None], torch.nan)]
        for result, asked in zip(absent, valid[1:, kept], strict=True):
            compared = _compared(true, result, boxes, self.threshold)
            values = [compared[name] for name in ("rel", "abs", "response", "spearman", "ssim", "empty")]
            counts = asked & _finite(result) & finite
            rows.append(torch.stack(values, dim=1).where(counts[:, None], torch.nan))
        return torch.cat(rows, dim=1)

    def scores(self, bootstrap: Bootstrap | None = None) -> dict[str, Score]:
        """Every score by name: ``accuracy_c0``, ``flr_rel_c2``, ``margin_rel_c2``, ...

        Raises:
            DataError: no image was added.
        """
        image_ids, columns = self.columns()
        if not image_ids:
            raise DataError(f"{self.name}: no image that counts was added before scores()")
        return self.scores_of(columns, bootstrap or Bootstrap())


@final
class ClassRankScores(_QueryScores):
    """Maps of classes of several ranks beside the map of the predicted class.

    One row per image: ``right[c0]``, 1 if the box of the predicted class's map is right; and for each
    further query

    - ``response``, ``norm``: sum and Euclidean norm of the raw map's magnitudes over those of the first;
    - ``spearman``, ``ssim`` with the first map; undefined for empty maps;
    - ``false_rel``, ``false_abs``: false localisation, the box at the threshold of the map's own range, or at
      the same share of the maximum of the first raw map, is right for the object of the first class;
    - ``margin_rel``, ``margin_abs``: right minus false localisation, image by image.

    Args:
        queries: names of the further queries, in the order of the results, e.g. ``rank2``.
        threshold: of the boxes, tau in [0, 1), chosen on other images; NaN leaves all boxes undefined.
    """

    _OF_RANK = ("response", "norm", "spearman", "ssim", "false_rel", "false_abs")

    def __init__(self, queries: Sequence[str], *, threshold: float = math.nan) -> None:
        self.queries = tuple(queries)
        columns = ["right[c0]", *(f"{name}[{query}]" for query in self.queries for name in self._OF_RANK)]
        super().__init__(columns, threshold=threshold)

    @property
    def margins(self) -> Mapping[str, tuple[str, str]]:
        """Of each further query, by both thresholds."""
        pairs = [f"{form}[{query}]" for query in self.queries for form in ("rel", "abs")]
        return {f"margin_{pair}": ("right[c0]", f"false_{pair}") for pair in pairs}

    def rows_of(self, results: Sequence[SaliencyResult], boxes: Sequence[Tensor], *, valid: Tensor) -> Tensor:
        """``(B, R)`` of one batch, for ``table``.

        Args:
            results: of the predicted class, then of each further query, on the same images.
            boxes: per image ``(N, 4)`` boxes of the objects of the predicted class; none leaves boxes
                undefined.
            valid: ``(Q, B)`` bool, True if the further query counts for the image.

        Raises:
            DataError: another number of results or of rows in ``valid`` than there are queries.
        """
        if len(results) != len(self.queries) + 1 or len(valid) != len(self.queries):
            raise DataError(
                f"there must be a result for the predicted class and for each of {list(self.queries)}, and"
                f" as many rows in valid; found {len(results)} and {len(valid)}"
            )
        first, finite, boxed = results[0], _finite(results[0]), _boxed(results[0], boxes)
        right = _right(first.saliency, boxes, self.threshold)
        rows = [right.where(finite & boxed, torch.nan)[:, None]]
        for result, asked in zip(results[1:], valid, strict=True):
            compared = _compared(first, result, boxes, self.threshold)
            values = [compared[name] for name in ("response", "norm", "spearman", "ssim", "rel", "abs")]
            counts = asked & finite & _finite(result)
            rows.append(torch.stack(values, dim=1).where(counts[:, None], torch.nan))
        return torch.cat(rows, dim=1)


@final
class PresentQueries(SaliencyMetric):
    """Share of maps of a class that is present that find its own object among those of other classes.

    A hit has more than half of its energy in its own region *and* a box with IoU of at least 0.5 with its own
    object. An empty map is a miss. The counterpart of :class:`DisturbedScores`, for mosaics and for scenes
    with several objects: ``Explained.object_masks`` is the own region, the cell of a mosaic; where it is None
    the own boxes are. Image ids must name image *and* class.

    Args:
        threshold: tau in [0, 1), frozen.

    Raises:
        ConfigError: a threshold outside [0, 1).
    """

    better = "high"
    needs = ("boxes",)

    def __init__(self, *, threshold: float) -> None:
        threshold_level(threshold)
        columns = ("hit", "energy_hit", "box_hit", "empty")
        super().__init__(f"{_NAME}[present, tau{threshold:g}]", columns)
        self.threshold = threshold

    def rows_of(self, explained: Explained) -> Tensor:
        """Hit, its two conditions, and whether the map is empty."""
        maps, region = explained.result.saliency, object_masks_of(explained, self.name)
        boxes = boxes_of(explained, self.name)
        energy = energy_inside(maps, region) > _HALF
        box = nearest_ious(frozen_boxes(maps, self.threshold), boxes) >= _IOU
        rows = torch.stack([energy & box, energy, box, ~defined_maps(maps)], dim=1).double()
        asked = region.any(dim=(1, 2)) & box.new_tensor([len(own) > 0 for own in boxes])
        return rows.where((asked & maps.flatten(1).isfinite().all(dim=1))[:, None], torch.nan)


def _compared(
    first: SaliencyResult, other: SaliencyResult, boxes: Sequence[Tensor], threshold: float
) -> dict[str, Tensor]:
    """Values per image ``(B,)`` float64 of a further class's maps beside those of the first."""
    raw, further = (result.raw.double().flatten(1) for result in (first, other))
    total, length, boxed = raw.abs().sum(dim=1), raw.norm(dim=1), _boxed(first, boxes)
    # A first map that is 0 throughout leaves every positive value above the threshold.
    high = raw.amax(dim=1).clamp_min(_TINY)
    return {
        "response": (further.abs().sum(dim=1) / total).where(total > 0, torch.nan),
        "norm": (further.norm(dim=1) / length).where(length > 0, torch.nan),
        "spearman": spearman(first.saliency, other.saliency),
        "ssim": ssim(first.saliency, other.saliency),
        "rel": _right(other.saliency, boxes, threshold).where(boxed, torch.nan),
        "abs": _right(other.raw, boxes, threshold, high=high).where(boxed, torch.nan),
        "empty": _empty(other),
    }


def _right(maps: Tensor, boxes: Sequence[Tensor], threshold: float, *, high: Tensor | None = None) -> Tensor:
    """1 where the box at the threshold is right, ``(B,)``; NaN without a threshold."""
    if math.isnan(threshold):
        return torch.full((len(maps),), torch.nan, dtype=torch.float64, device=maps.device)
    return (nearest_ious(frozen_boxes(maps, threshold, high=high), boxes) >= _IOU).double()


def _boxed(result: SaliencyResult, boxes: Sequence[Tensor]) -> Tensor:
    """True ``(B,)`` for an image with a box."""
    return torch.tensor([len(own) > 0 for own in boxes], dtype=torch.bool, device=result.raw.device)


def _empty(result: SaliencyResult) -> Tensor:
    return (~defined_maps(result.saliency)).double()


def _part(result: SaliencyResult, index: Tensor) -> SaliencyResult:
    return SaliencyResult(saliency=result.saliency[index], raw=result.raw[index])


def _finite(result: SaliencyResult) -> Tensor:
    return result.saliency.flatten(1).isfinite().all(dim=1) & result.raw.flatten(1).isfinite().all(dim=1)


def _score(name: str, values: Tensor, bootstrap: Bootstrap) -> Score:
    if name.startswith("n_empty"):
        counted = int((~values.isnan()).sum())
        total = float(values.nansum()) if counted else math.nan
        return Score(total, n=counted, undefined=len(values) - counted)
    kind: Literal["value", "measure", "hit difference"] = "value"
    if name.startswith("margin"):
        kind = "hit difference"
    elif name.startswith(("response", "norm", "spearman", "ssim")):
        kind = "measure"
    return bootstrap.mean(values, kind=kind).score()
