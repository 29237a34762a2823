"""Need of the classifier for what a map marks: saliency fidelity, and Dabkowski and Gal's crop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from verisal._brief import brief
from verisal.errors import ConfigError, DataError
from verisal.functional.comparison.similarity import defined_maps
from verisal.functional.removal.curves import check_maps
from verisal.functional.scopes import in_chunks, query_scores, scoring

Classify = Callable[[Tensor], Tensor]
_LOWEST_PROBABILITY = 1e-7
_SMALLEST_AREA = 0.05
_THRESHOLDS = tuple(step / 20 for step in range(1, 20))


@dataclass(frozen=True)
class Fidelity:
    """Saliency fidelity of a batch.

    Attributes:
        values: ``(B,)`` float64; NaN where the map is undefined.
        floored: ``(B,)`` bool, True if a probability was below its floor.
    """

    values: Tensor
    floored: Tensor

    __repr__ = brief


def saliency_fidelity(
    classifier: Classify, images: Tensor, *, maps: Tensor, query_class: Tensor, chunk_size: int = 64
) -> Fidelity:
    r"""Saliency fidelity :math:`S_F = -\log [p_c(E \odot x) / p_c(\bar E \odot x)]`; low is good.

    :math:`\bar E` is the constant map with E's mean. Products are taken in pixel space, so what is removed
    turns black. Probabilities are floored at 1e-7.

    Args:
        classifier: maps images to logits.
        images: ``(B, C, H, W)`` in [0, 1].
        maps: E, ``(B, 1, H, W)`` in [0, 1], by :func:`postprocess`, the same for all that is compared.
        query_class: c, ``(B,)`` int64.
        chunk_size: images in one network pass.

    Raises:
        DataError: maps outside [0, 1] or of another shape.
        ConfigError: a query class that does not fit, or ``chunk_size`` below 1.

    References:
        lu2021decoys

    Differs from:
        - The overline on the second map is read as "constant map with E's mean".
    """
    check_maps(maps, images)
    defined = defined_maps(maps)
    kept = maps.where(defined[:, None, None, None], 0.0)
    if len(kept) and not (float(kept.min()) >= 0.0 and float(kept.max()) <= 1.0):
        raise DataError(
            f"maps of the fidelity must lie in [0, 1], found values from {float(kept.min()):.4g}"
            f" to {float(kept.max()):.4g}; post-process them first"
        )
    level = kept.mean(dim=(1, 2, 3), keepdim=True)
    masked = torch.cat([kept * images, level * images])
    logs = _log_probabilities(classifier, masked, query_class.repeat(2), chunk_size)
    salient, even = logs.clamp_min(math.log(_LOWEST_PROBABILITY)).chunk(2)
    floored = (logs < math.log(_LOWEST_PROBABILITY)).view(2, -1).any(dim=0)
    return Fidelity((even - salient).where(defined, torch.nan), floored & defined)


def dabkowski_gal(
    classifier: Classify,
    images: Tensor,
    *,
    maps: Tensor,
    query_class: Tensor,
    threshold: float,
    empty_probability: float | None = None,
    chunk_size: int = 64,
) -> Tensor:
    r"""Saliency metric :math:`\log \max(a, 0.05) - \log p_c(\text{crop})`; low is good.

    a is the share of the image inside the tightest box round the map's values of at least ``threshold`` times
    its maximum; the crop is the image inside that box, resized to the input size.

    Args:
        classifier: maps images to logits.
        images: ``(B, C, H, W)`` in [0, 1].
        maps: ``(B, 1, H, W)`` non-negative.
        query_class: c, ``(B,)`` int64.
        threshold: tau in (0, 1], tuned on images that are not scored.
        empty_probability: p of the empty crop of an all-zero map; None leaves it undefined. The authors take
            0.001.
        chunk_size: images in one network pass.

    Returns:
        ``(B,)`` float64; NaN where the map is undefined.

    Raises:
        ConfigError: settings out of range, or a query class that does not fit.
        DataError: maps of another shape.

    References:
        dabkowski2017

    Differs from:
        - The threshold is a share of the maximum.
        - An empty crop is undefined by default.
    """
    if empty_probability is not None and not 0.0 < empty_probability <= 1.0:
        raise ConfigError(f"empty_probability must lie in (0, 1] or be None, found {empty_probability}")
    check_maps(maps, images)
    defined = defined_maps(maps)
    empty = maps.eq(0).flatten(1).all(dim=1)
    height, width = images.shape[-2:]
    whole = torch.tensor([0, 0, width, height], device=images.device)
    boxes = threshold_boxes(maps, threshold).where(defined[:, None], whole)
    sides = (boxes[:, 2:] - boxes[:, :2]).double()
    area = sides.prod(dim=1) / (height * width)
    logs = _log_probabilities(classifier, crop_to_boxes(images, boxes), query_class, chunk_size)
    values = (area.clamp_min(_SMALLEST_AREA).log() - logs).where(defined, torch.nan)
    if empty_probability is None:
        return values
    return values.where(~empty, math.log(_SMALLEST_AREA) - math.log(empty_probability))


def tuned_threshold(
    classifier: Classify,
    images: Tensor,
    *,
    maps: Tensor,
    query_class: Tensor,
    thresholds: Sequence[float] = _THRESHOLDS,
    chunk_size: int = 64,
) -> float:
    """The threshold with the lowest mean :func:`dabkowski_gal`; of equals the first.

    The mean is over the images that have a number at every threshold.

    Args:
        classifier: as of :func:`dabkowski_gal`, like all that is not listed.
        images: ``(B, C, H, W)``, none of those that are scored later.
        maps: ``(B, 1, H, W)`` non-negative.
        query_class: ``(B,)`` int64.
        thresholds: candidates in (0, 1].
        chunk_size: images in one network pass.

    Raises:
        ConfigError: no candidate, or one out of range.
        DataError: no image has a number at every threshold.
    """
    if not thresholds:
        raise ConfigError("tuned_threshold needs at least one candidate, found none")
    score = partial(
        dabkowski_gal, classifier, images, maps=maps, query_class=query_class, chunk_size=chunk_size
    )
    values = torch.stack([score(threshold=threshold) for threshold in thresholds])
    values = values[:, values.isfinite().all(dim=0)]
    if not values.shape[1]:
        raise DataError(f"no map is defined among the {len(maps)} that the threshold is tuned on")
    return thresholds[int(values.mean(dim=1).argmin())]


def threshold_boxes(maps: Tensor, threshold: float) -> Tensor:
    """Tightest box round each map's values of at least ``threshold`` times its maximum.

    Args:
        maps: ``(B, 1, H, W)`` non-negative.
        threshold: in (0, 1].

    Returns:
        ``(B, 4)`` int64 xyxy, half-open.

    Raises:
        ConfigError: a threshold outside (0, 1].
    """
    if not 0.0 < threshold <= 1.0:
        raise ConfigError(f"threshold is a share of the maximum in (0, 1], found {threshold}")
    inside = maps[:, 0] >= threshold * maps.amax(dim=(2, 3))[..., None]
    ends = []
    for dim in (1, 2):  # over rows for x, over columns for y
        line = inside.any(dim=dim).int()
        ends.append((line.argmax(dim=1), line.shape[1] - line.flip(1).argmax(dim=1)))
    (left, right), (top, bottom) = ends
    return torch.stack([left, top, right, bottom], dim=1)


def crop_to_boxes(images: Tensor, boxes: Tensor) -> Tensor:
    """The inside of one box per image, resized bilinearly to the image's own size, all images at once.

    Args:
        images: ``(B, C, H, W)``.
        boxes: ``(B, 4)`` xyxy, half-open, whole pixels inside the image, not empty.

    Returns:
        ``(B, C, H, W)``.
    """

    def along(length: int, low: Tensor, high: Tensor) -> Tensor:
        centres = (torch.arange(length, device=images.device) + 0.5) / length
        at = low + centres * (high - low) - 0.5
        return (2 * at.maximum(low).minimum(high - 1) + 1) / length - 1

    left, top, right, bottom = boxes.unsqueeze(2).unbind(dim=1)
    x, y = along(images.shape[3], left, right), along(images.shape[2], top, bottom)
    shape = (len(images), images.shape[2], images.shape[3])
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3).to(images)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _log_probabilities(classifier: Classify, images: Tensor, query: Tensor, chunk_size: int) -> Tensor:
    with scoring(classifier, images.device):
        return query_scores(classifier, in_chunks(images, query, chunk_size), score="log_probability")
