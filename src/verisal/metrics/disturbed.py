"""D-WSOL (our protocol): does a map answer the query, or does it find the object whatever is asked?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, final

import torch
from torch import Tensor

from verisal._numbers import check_range
from verisal.errors import DataError
from verisal.functional.comparison.similarity import defined_maps, spearman, ssim
from verisal.functional.regions.boxes import nearest_ious
from verisal.functional.regions.disturbed import QUERIES
from verisal.functional.regions.localisation import energy_inside, frozen_boxes, threshold_level
from verisal.functional.statistics.resampled import Bootstrap
from verisal.metrics._base import ImageTable, SaliencyMetric
from verisal.metrics.localisation import boxes_of, object_masks_of
from verisal.results import Score
from verisal.types import Explained, SaliencyResult

__all__ = ["DisturbedScores", "PresentQueries"]

_NAME = "D-WSOL (our protocol)"
_TRUE, *_ABSENT = QUERIES
_OF_TRUE = ("accuracy", "whole_image", "n_empty")
_OF_ABSENT = ("flr_rel", "flr_abs", "response_ratio", "spearman", "ssim", "n_empty")
_COLUMNS = (
    *(f"{name}_{_TRUE}" for name in _OF_TRUE),
    *(f"{name}_{query}" for query in _ABSENT for name in _OF_ABSENT),
)
# Overlap from which a box is right, and share of the energy from which a map has chosen a side.
_IOU, _HALF = 0.5, 0.5


@final
class DisturbedScores:
    """What maps of absent classes have in common with the map of the true one.

    One row per image: under c0, whether the box is right, whether the whole image's box would be, and
    whether the map is empty; under each absent class

    - ``flr_rel``: false localisation, the box at the threshold of the map's own range is right for the true
      object; ``flr_abs``: the box at the same share of the maximum of the raw c0 map is. No box is none;
    - ``response_ratio``: sum of the raw map's magnitudes over that of the raw c0 map, which must not be 0;
    - ``spearman``, ``ssim`` with the c0 map; undefined for empty maps;
    - ``n_empty``: constant maps.

    Maps that are not finite are undefined everywhere. The threshold is chosen on other images, under c0
    alone: :func:`.choose_threshold`.

    Args:
        threshold: tau in [0, 1), frozen.
        resamples: bootstrap resamples of the intervals; 0 for none.
        seed: of the resampling.

    Raises:
        ConfigError: a threshold outside [0, 1).

    Differs from:
        - The paper's own rules of a disturbed localisation are not known to us; all of these are ours.
    """

    def __init__(self, *, threshold: float, resamples: int = 2000, seed: int = 0) -> None:
        threshold_level(threshold)
        check_range(0, resamples=resamples, seed=seed)
        self.name = f"{_NAME}[tau{threshold:g}]"
        self.threshold, self.resamples, self.seed = threshold, resamples, seed
        self.table = ImageTable(_COLUMNS)

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
        self.table.update(kept, self.rows_of(results, boxes, valid=valid))

    def rows_of(
        self, results: Mapping[str, SaliencyResult], boxes: Sequence[Tensor], *, valid: Tensor
    ) -> Tensor:
        """Rows of the images that count for c0, for ``table``; arguments as of :meth:`update`."""
        kept = torch.nonzero(valid[0])[:, 0]
        chosen = {query: _part(result, kept) for query, result in results.items()}
        return _rows(chosen, [boxes[index] for index in kept.tolist()], valid[:, kept], self.threshold)

    def compute(self) -> dict[str, Score]:
        """Every score by name: ``accuracy_c0``, ``flr_rel_c2``, ``margin_rel_c2``, ...

        A margin is accuracy minus false localisation, image by image, on the images that have the query.
        ``n_empty`` is a count without an interval.

        Raises:
            DataError: no image was added.
        """
        rows = self.table.compute().rows
        if not len(rows):
            raise DataError(f"{self.name}: no image that counts was added before compute()")
        columns = dict(zip(_COLUMNS, rows.unbind(dim=1), strict=True))
        for query in _ABSENT:
            for form in ("rel", "abs"):
                columns[f"margin_{form}_{query}"] = columns["accuracy_c0"] - columns[f"flr_{form}_{query}"]
        return {name: self._score(name, values) for name, values in columns.items()}

    def reset(self) -> None:
        """Forget all images."""
        self.table.reset()

    def _score(self, name: str, values: Tensor) -> Score:
        if not name.startswith("n_empty"):
            return Bootstrap(self.resamples, seed=self.seed).mean(values, kind=kind_of(name)).score()
        counted = int((~values.isnan()).sum())
        total = float(values.nansum()) if counted else math.nan
        return Score(total, math.nan, math.nan, n=counted, undefined=len(values) - counted)


@final
class PresentQueries(SaliencyMetric):
    """Whether the map of a class that is present finds its own object among those of other classes.

    A hit has more than half of its energy in its own region *and* a box with IoU of at least 0.5 with its own
    object. An empty map is a miss. The counterpart of :class:`DisturbedScores`, for mosaics and for scenes
    with several objects: ``Explained.object_masks`` is the own region, the cell of a mosaic; where it is None
    the own boxes are. Image ids must name image *and* class.

    Args:
        threshold: tau in [0, 1), frozen.
        resamples: bootstrap resamples of the intervals; 0 for none.
        seed: of the resampling.

    Raises:
        ConfigError: a threshold outside [0, 1).
    """

    better = "high"

    def __init__(self, *, threshold: float, resamples: int = 2000, seed: int = 0) -> None:
        threshold_level(threshold)
        columns = ("hit", "energy_hit", "box_hit", "empty")
        super().__init__(f"{_NAME}[present, tau{threshold:g}]", columns, resamples=resamples, seed=seed)
        self.threshold = threshold

    def rows_of(self, explained: Explained) -> Tensor:
        """Hit, its two conditions, and whether the map is empty."""
        maps, region = explained.result.saliency, object_masks_of(explained, self.name)
        boxes = boxes_of(explained, self.name)
        energy = energy_inside(maps, region) > _HALF
        box = nearest_ious(frozen_boxes(maps, self.threshold), boxes) >= _IOU
        rows = torch.stack([energy & box, energy, box, ~defined_maps(maps)], dim=1).double()
        asked = _finite(maps) & region.any(dim=(1, 2)) & box.new_tensor([len(own) > 0 for own in boxes])
        return rows.where(asked[:, None], torch.nan)


def _part(result: SaliencyResult, index: Tensor) -> SaliencyResult:
    return SaliencyResult(saliency=result.saliency[index], raw=result.raw[index])


def _finite(maps: Tensor) -> Tensor:
    return maps.flatten(1).isfinite().all(dim=1)


def _rows(
    results: Mapping[str, SaliencyResult], boxes: Sequence[Tensor], valid: Tensor, threshold: float
) -> Tensor:
    """``(B, R)`` in the order of the columns."""
    true = results[_TRUE]
    finite = {query: _finite(result.saliency) & _finite(result.raw) for query, result in results.items()}
    top, total = true.raw.flatten(1).amax(dim=1).double(), true.raw.double().abs().sum(dim=(1, 2, 3))
    size = true.saliency.shape[-2:]
    whole = torch.tensor([0, 0, size[1], size[0]], device=total.device).expand(len(total), 4)
    of_true = (
        nearest_ious(frozen_boxes(true.saliency, threshold), boxes) >= _IOU,
        nearest_ious(whole, boxes) >= _IOU,
        ~defined_maps(true.saliency),
    )
    found = [_where(torch.stack(of_true, dim=1).double(), finite[_TRUE])]
    for query, asked in zip(_ABSENT, valid[1:], strict=True):
        result = results[query]
        # A c0 map that is 0 throughout leaves every positive value above the threshold.
        share = frozen_boxes(result.raw, threshold, high=top.clamp_min(torch.finfo(torch.float64).tiny))
        response = result.raw.double().abs().sum(dim=(1, 2, 3))
        columns = (
            (nearest_ious(frozen_boxes(result.saliency, threshold), boxes) >= _IOU).double(),
            (nearest_ious(share, boxes) >= _IOU).double(),
            (response / total).where(total > 0, torch.nan),
            spearman(true.saliency, result.saliency),
            ssim(true.saliency, result.saliency),
            (~defined_maps(result.saliency)).double(),
        )
        found.append(_where(torch.stack(columns, dim=1), asked & finite[query] & finite[_TRUE]))
    return torch.cat(found, dim=1)


def _where(columns: Tensor, defined: Tensor) -> Tensor:
    return columns.where(defined[:, None], torch.nan)


def kind_of(name: str) -> Literal["value", "measure", "hit difference"]:
    """What the mean of a column of this name is of, for :meth:`.Bootstrap.mean`."""
    if name.startswith("margin"):
        return "hit difference"
    return "measure" if name.startswith(("response", "norm", "spearman", "ssim")) else "value"
