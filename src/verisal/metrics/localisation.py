"""Localisation scores over a set: pointing game, energy inside, box accuracies, pixel precision."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.regions import (
    energy_inside,
    largest_component_ious,
    multi_component_ious,
    pixel_average_precision,
    pointing_hits,
)
from verisal.functional.regions.boxes import NUM_LEVELS
from verisal.functional.regions.localisation import object_area, pixel_histograms, pointing_tolerance
from verisal.functional.seeding import derive_seed
from verisal.functional.statistics import Bootstrap, Resampled
from verisal.metrics._base import SaliencyMetric
from verisal.metrics._given import boxes_of, object_masks_of
from verisal.types import Explained, check_range

_V2_IOUS = (0.3, 0.5, 0.7)
_BINS = 1000
# Images whose histograms are summed together.
_AT_ONCE = 256
# The narrowest type that processes can send each other and that has 0, 1 and NaN.
_HITS = torch.float16


@final
class PointingGame(SaliencyMetric):
    """Share of maps whose maximum hits the object: the mean over classes, and the mean over images beside it.

    Args:
        tolerance: in pixels at a shorter side of 224 px or more; scaled below, see
            :func:`.pointing_tolerance`.

    Raises:
        ConfigError: a negative tolerance.

    References:
        zhang2016excitation
    """

    better = "high"
    needs = ("objects",)

    def __init__(self, *, tolerance: float = 15.0) -> None:
        check_range(0, tolerance=tolerance)
        super().__init__(f"pointing_game[{tolerance:g}px@224]", ("hit", "class"), main="accuracy")
        self.tolerance = tolerance

    def rows_of(self, explained: Explained) -> Tensor:
        """Hit and query class of every image."""
        masks = object_masks_of(explained, self.name)
        size = (masks.shape[1], masks.shape[2])
        reach = pointing_tolerance(size, tolerance=self.tolerance)
        hits = pointing_hits(explained.result.saliency, masks, tolerance=reach)
        return torch.stack([hits, explained.query_class.to(hits)], dim=1)

    def reduce(self, rows: Tensor, bootstrap: Bootstrap) -> Mapping[str, Resampled]:
        """``accuracy``: mean over the classes that occur; ``image_accuracy``: mean over images."""
        defined = rows[:, 0].isfinite()
        hits, classes = rows[defined].T
        _, member, images = torch.unique(classes, return_inverse=True, return_counts=True)

        def accuracy(weights: Tensor) -> Tensor:
            share = weights.double()
            sums = share.new_zeros(2, len(share), len(images))
            of_class = sums[0].index_add_(1, member, share * hits) / sums[1].index_add_(1, member, share)
            return of_class.nanmean(dim=1)

        # A class of one image counts as much as one of many.
        worth = len(images) ** 2 / float(images.double().reciprocal().sum()) if len(hits) else None
        return {
            "accuracy": bootstrap.of(accuracy, defined, kind="share", worth=worth),
            "image_accuracy": bootstrap.mean(rows[:, 0]),
        }


@final
class EnergyInside(SaliencyMetric):
    """Share of the positive saliency on the object, with the object's share of the image beside it."""

    better = "high"
    needs = ("objects",)

    def __init__(self) -> None:
        super().__init__("energy_inside", ("energy", "area"))

    def rows_of(self, explained: Explained) -> Tensor:
        """Energy inside and area of every image's object."""
        masks = object_masks_of(explained, self.name)
        energy = energy_inside(explained.result.saliency, masks)
        return torch.stack([energy, object_area(masks).where(~energy.isnan(), torch.nan)], dim=1)


@final
class MaxBoxAcc(SaliencyMetric):
    """Share of maps whose largest component's box is right, at one threshold for many images.

    ``accuracy``: the images are dealt into two halves by seed, and each half is judged at the threshold that
    is best on the other; undefined for fewer than two images. Its interval holds the accuracy at such a
    threshold and at the best one alike. ``maximum``, as published: at the threshold that is best on the very
    images judged, hence too high, the more so the fewer there are, and without an interval.

    Args:
        iou: overlap from which a box is right.
        chunk_size: maps at a time; never changes the result.
        seed: of the halves.

    Raises:
        ConfigError: an overlap outside (0, 1].

    References:
        choe2020wsol

    Differs from:
        - Components take the place of contours; see :func:`.largest_component_ious`.
    """

    better = "high"
    needs = ("boxes",)

    def __init__(self, *, iou: float = 0.5, chunk_size: int = 4, seed: int = 0) -> None:
        if not 0 < iou <= 1:
            raise ConfigError(f"iou must lie in (0, 1], found {iou}")
        check_range(1, chunk_size=chunk_size)
        columns = tuple(f"level_{level}" for level in range(NUM_LEVELS))
        super().__init__(f"max_box_acc[iou{iou:g}]", columns, main="accuracy", seed=seed, dtype=_HITS)
        self.iou, self.chunk_size = iou, chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """1 where the box is right, at every level."""
        ious = largest_component_ious(
            explained.result.saliency, boxes_of(explained, self.name), chunk_size=self.chunk_size
        )
        return _right(ious, self.iou)

    def reduce(self, rows: Tensor, bootstrap: Bootstrap) -> Mapping[str, Resampled]:
        """The rate at levels chosen on the other half, and at the best level."""
        rates, highest, undefined = _cross_fitted(rows[:, None], self.seed)
        n, hits = len(rows) - undefined, _at_best(rows)
        return {
            "accuracy": _rate(bootstrap, float(rates[0]), float(highest[0]), n, undefined, hits),
            "maximum": Resampled(float(highest[0]), n=n, undefined=undefined),
        }


@final
class MaxBoxAccV2(SaliencyMetric):
    """As :class:`MaxBoxAcc` with the best box of all components, and the mean over three overlaps.

    The overlaps are 0.3, 0.5 and 0.7; each has its own thresholds.

    Args:
        chunk_size: maps at a time; never changes the result.
        seed: of the halves.

    References:
        choe2020wsol

    Differs from:
        - That the best box counts is our reading.
        - Components take the place of contours; see :func:`.multi_component_ious`.
    """

    better = "high"
    needs = ("boxes",)

    def __init__(self, *, chunk_size: int = 4, seed: int = 0) -> None:
        check_range(1, chunk_size=chunk_size)
        columns = tuple(f"iou{iou:g}_level_{level}" for iou in _V2_IOUS for level in range(NUM_LEVELS))
        super().__init__("max_box_acc_v2", columns, main="accuracy", seed=seed, dtype=_HITS)
        self.chunk_size = chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """1 where a box is right, at every overlap and level."""
        ious = multi_component_ious(
            explained.result.saliency, boxes_of(explained, self.name), chunk_size=self.chunk_size
        )
        return torch.cat([_right(ious, iou) for iou in _V2_IOUS], dim=1)

    def reduce(self, rows: Tensor, bootstrap: Bootstrap) -> Mapping[str, Resampled]:
        """``accuracy`` and ``maximum``: means over overlaps; ``iou0.3``, ``iou0.5``, ``iou0.7``: each."""
        levels = rows.view(len(rows), len(_V2_IOUS), NUM_LEVELS)
        rates, highest, undefined = _cross_fitted(levels, self.seed)
        n, best = len(rows) - undefined, float(highest.mean())
        hits = [_at_best(levels[:, place]) for place in range(len(_V2_IOUS))]
        each = zip(_V2_IOUS, rates.tolist(), highest.tolist(), hits, strict=True)
        return {
            # The middle overlap's images vary with each other as those of the mean do.
            "accuracy": _rate(bootstrap, float(rates.mean()), best, n, undefined, hits[1]),
            **{
                f"iou{iou:g}": _rate(bootstrap, rate, high, n, undefined, own)
                for iou, rate, high, own in each
            },
            "maximum": Resampled(best, n=n, undefined=undefined),
        }


@final
class PxAP(SaliencyMetric):
    """Area under the precision-recall curve of the pixels of all images together.

    Keeps 2000 numbers per image.

    References:
        choe2020wsol

    Differs from:
        - The value 1 shares the last of 1000 bins instead of having its own.
    """

    better = "high"
    needs = ("objects",)

    def __init__(self) -> None:
        columns = tuple(f"{side}_{index}" for side in ("off", "on") for index in range(_BINS))
        # Whole numbers, up to that of the pixels.
        super().__init__("pxap", columns, main="area", dtype=torch.float32)

    def rows_of(self, explained: Explained) -> Tensor:
        """Histogram of the pixels off and on the object, of every image."""
        masks = object_masks_of(explained, self.name)
        return pixel_histograms(explained.result.saliency, masks, bins=_BINS).flatten(1)

    def reduce(self, rows: Tensor, bootstrap: Bootstrap) -> Mapping[str, Resampled]:
        """The area under the curve of every resample's pixels."""
        defined = ~rows[:, 0].isnan()
        kept = rows[defined]

        def area(weights: Tensor) -> Tensor:
            counts = weights.new_zeros(len(weights), 2 * _BINS, dtype=torch.float64)
            for share, own in zip(
                torch.split(weights, _AT_ONCE, dim=1), torch.split(kept, _AT_ONCE), strict=True
            ):
                counts += share.double() @ own.double()
            return pixel_average_precision(counts.view(-1, 2, _BINS))

        return {"area": bootstrap.of(area, defined, kind="share")}


def _right(ious: Tensor, enough: float) -> Tensor:
    return (ious >= enough).double().where(~ious.isnan(), torch.nan)


def _at_best(hits: Tensor) -> Tensor:
    """``(n,)`` of hits ``(n, L)``: those at the level that is best for all; NaN is undefined."""
    return hits[:, int(_middle_of_best(hits.nansum(dim=0, dtype=torch.float64)))]


def _rate(
    bootstrap: Bootstrap, value: float, highest: float, n: int, undefined: int, hits: Tensor
) -> Resampled:
    """A rate among n images whose upper limit is that of the highest rate; undefined for one image."""
    if math.isnan(value):
        n, undefined = 0, undefined + n
    rate, ceiling = (bootstrap.rate(share, n, undefined, hits=hits) for share in (value, highest))
    return replace(rate, ends=(rate.limits()[0], ceiling.limits()[1]))


def _cross_fitted(rows: Tensor, seed: int) -> tuple[Tensor, Tensor, int]:
    """Rates at the levels that are best on the other half of the images, and at the best levels.

    More than two parts would be judged at thresholds that have most of their images in common, and the rate
    would vary by more than its interval says.

    Args:
        rows: ``(n, Q, L)`` hits of Q questions at L levels; NaN is undefined.
        seed: of the halves.

    Returns:
        Both rates ``(Q,)``, and the number of undefined images.
    """
    kept = rows[~rows[:, 0, 0].isnan()]
    order = torch.randperm(len(kept), generator=torch.Generator().manual_seed(derive_seed(seed, "halves")))
    hits = [kept[half].sum(dim=0, dtype=torch.float64) for half in order.tensor_split(2)]
    levels = [_middle_of_best(counts)[:, None] for counts in hits]
    judged = hits[0].gather(1, levels[1]) + hits[1].gather(1, levels[0])
    rates, highest = judged[:, 0] / len(kept), (hits[0] + hits[1]).amax(dim=1) / len(kept)
    return (rates if len(kept) > 1 else torch.full_like(rates, torch.nan)), highest, len(rows) - len(kept)


def _middle_of_best(counts: Tensor) -> Tensor:
    """Level ``(...)`` of the greatest count ``(..., L)``; of equals the middle one, which is the safest."""
    best = counts == counts.amax(dim=-1, keepdim=True)
    place = best.cumsum(dim=-1)
    return (place >= (place[..., -1:] + 1) // 2).to(torch.uint8).argmax(dim=-1)
