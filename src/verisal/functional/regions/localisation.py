"""Localisation of objects by maps: pointing, energy, boxes at every threshold, pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from verisal.errors import ConfigError, DataError
from verisal.functional.comparison.similarity import defined_maps
from verisal.functional.regions.boxes import (
    NUM_LEVELS,
    Components,
    best_ious,
    components,
    largest_boxes,
    map_levels,
    nearest_ious,
)
from verisal.types import check_range

# Side from which the tolerance of the pointing game is meant as it is given.
_POINTING_SIDE = 224
_THRESHOLDS = 1000


def masks_from_boxes(boxes: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Union of the boxes of each image: the pixels whose centre lies inside one.

    Args:
        boxes: per image ``(N_i, 4)`` xyxy, half-open.
        size: height and width.

    Returns:
        ``(B, H, W)`` bool on the device of the boxes.
    """
    masks = []
    for box in boxes:
        rows, columns = (torch.arange(length, device=box.device) + 0.5 for length in size)
        across = (box[:, :1] <= columns) & (columns < box[:, 2:3])
        down = (box[:, 1:2] <= rows) & (rows < box[:, 3:])
        masks.append((down[:, :, None] & across[:, None]).any(dim=0))
    return torch.stack(masks) if masks else torch.zeros(0, *size, dtype=torch.bool)


def pointing_tolerance(size: tuple[int, int], *, tolerance: float = 15.0) -> float:
    """Tolerance in pixels at an image size: as it is from 224 px on, else in proportion, to whole pixels.

    >>> pointing_tolerance((64, 96)), pointing_tolerance((480, 640))
    (4.0, 15.0)
    """
    shorter = min(size)
    return tolerance if shorter >= _POINTING_SIDE else float(round(tolerance * shorter / _POINTING_SIDE))


def pointing_hits(maps: Tensor, object_masks: Tensor, *, tolerance: float = 15.0) -> Tensor:
    r"""Pointing game: a map hits if its maximum is on its object or strictly closer to it than the tolerance.

    The maximum is the first in row-major order; distances are Euclidean, between centres of pixels.

    Args:
        maps: ``(B, 1, H, W)`` saliency maps.
        object_masks: ``(B, H, W)`` bool.
        tolerance: in pixels, at this size; see :func:`pointing_tolerance`.

    Returns:
        ``(B,)`` float64, 1 or 0; NaN where the map is constant or not finite, or the mask is empty.

    Raises:
        DataError: shapes that do not fit.

    References:
        zhang2016excitation
    """
    defined = _defined(maps, object_masks)
    height, width = object_masks.shape[1:]
    place = maps.flatten(1).argmax(dim=1)
    rows = torch.arange(height, device=maps.device) - (place // width)[:, None]
    columns = torch.arange(width, device=maps.device) - (place % width)[:, None]
    squared = rows[:, :, None] ** 2 + columns[:, None] ** 2
    nearest = squared.double().masked_fill(~object_masks, torch.inf).amin(dim=(1, 2))
    hit = (nearest < tolerance**2) | (nearest == 0)
    return hit.double().where(defined, torch.nan)


def energy_inside(maps: Tensor, object_masks: Tensor) -> Tensor:
    r"""Share of the positive saliency that lies on the object, :math:`\sum_{p \in M} S_p^+ / \sum_p S_p^+`.

    Arguments as of :func:`pointing_hits`; NaN also where the map is nowhere positive.
    """
    defined = _defined(maps, object_masks)
    positive = maps[:, 0].double().clamp_min(0)
    inside = (positive * object_masks).sum(dim=(1, 2)) / positive.sum(dim=(1, 2))
    return inside.where(defined, torch.nan)


def object_area(object_masks: Tensor) -> Tensor:
    """Share ``(B,)`` float64 of the image that each object covers: the energy of a constant map."""
    return object_masks.double().mean(dim=(1, 2))


def largest_component_ious(maps: Tensor, boxes: Sequence[Tensor], *, chunk_size: int = 4) -> Tensor:
    """Overlap of the largest component's box with the nearest true box, at all 255 levels of the map.

    Level t is the foreground of 8-bit values above t, after scaling each map to 0..255; a threshold tau is
    level :func:`threshold_level`.

    Args:
        maps: ``(B, 1, H, W)`` saliency maps.
        boxes: per image ``(N_i, 4)`` true boxes, xyxy, half-open.
        chunk_size: maps at a time; never changes the result.

    Returns:
        ``(B, 255)`` float64; NaN where the map is constant or not finite, or no true box has an area.

    Raises:
        DataError: shapes that do not fit.

    References:
        choe2020wsol

    Differs from:
        - Components take the place of contours: size is counted in pixels, holes are no components.
        - Boxes are half-open and have no pixel added in their area.
    """
    return _level_ious(maps, boxes, lambda parts, true: nearest_ious(largest_boxes(parts), true), chunk_size)


def multi_component_ious(maps: Tensor, boxes: Sequence[Tensor], *, chunk_size: int = 4) -> Tensor:
    """Greatest overlap of any component's box; otherwise as :func:`largest_component_ious`."""
    return _level_ious(maps, boxes, best_ious, chunk_size)


def threshold_level(threshold: float) -> int:
    """The 8-bit level ``int(255 tau)`` that a threshold tau in [0, 1) stands for.

    >>> threshold_level(0.2), threshold_level(0.999)
    (51, 254)

    Raises:
        ConfigError: outside [0, 1).
    """
    if not 0 <= threshold < 1:
        raise ConfigError(f"threshold must lie in [0, 1), as a share of the map's maximum, found {threshold}")
    # 0.6 * 255 is a hair below 153 in floating point.
    return int(threshold * NUM_LEVELS + 1e-9)


def choose_threshold(
    maps: Tensor, boxes: Sequence[Tensor], *, iou: float = 0.5, chunk_size: int = 4
) -> float:
    """The threshold at which the largest component's box is right most often; of equals the lowest.

    One of 0, .001, .., .999, for all images. Choose it on images of which no score is reported.

    Args:
        maps: ``(B, 1, H, W)``; undefined ones are left out.
        boxes: per image ``(N_i, 4)`` true boxes.
        iou: overlap from which a box is right.
        chunk_size: maps at a time.

    Raises:
        DataError: shapes that do not fit, or no map that can be scored.
    """
    ious = largest_component_ious(maps, boxes, chunk_size=chunk_size)
    ious = ious[~ious.isnan().any(dim=1)]
    if not len(ious):
        raise DataError(f"none of {len(maps)} maps can be scored, so no threshold can be chosen from them")
    level = int((ious >= iou).sum(dim=0).argmax())
    return -(-level * _THRESHOLDS // NUM_LEVELS) / _THRESHOLDS


def frozen_boxes(maps: Tensor, threshold: float, *, high: Tensor | None = None) -> Tensor:
    """Box of the largest component at one threshold, chosen elsewhere.

    Args:
        maps: ``(B, 1, H, W)``.
        threshold: tau in [0, 1).
        high: ``(B,)`` values of which tau is a share, with 0 as the other end; None scales each map from its
            own minimum to its own maximum.

    Returns:
        ``(B, 4)`` int64 xyxy, half-open; all 0 where the map is constant or not finite, or nothing is above
        the threshold.
    """
    defined = defined_maps(maps)
    finite = maps.where(defined.view(-1, 1, 1, 1), 0.0)
    low = None if high is None else torch.zeros_like(high)
    foreground = map_levels(finite, low=low, high=high) > threshold_level(threshold)
    return largest_boxes(components(foreground, num_levels=1))[:, 0]


def pixel_histograms(
    maps: Tensor, object_masks: Tensor, *, ignore: Tensor | None = None, bins: int = 1000
) -> Tensor:
    """Numbers of pixels of each value, off and on the object, after scaling each map to [0, 1].

    Args:
        maps: ``(B, 1, H, W)``.
        object_masks: ``(B, H, W)`` bool.
        ignore: ``(B, H, W)`` bool, pixels that do not count, or None.
        bins: number of bins; bin k holds the values from k / bins on, the last one 1 as well.

    Returns:
        ``(B, 2, bins)`` float64 whole numbers, off then on the object; NaN where the map is constant or not
        finite, or no pixel of the object counts.

    Raises:
        DataError: shapes that do not fit.
    """
    defined = _defined(maps, object_masks)
    counted = torch.ones_like(object_masks) if ignore is None else ~ignore
    on = object_masks & counted
    defined &= on.any(dim=(1, 2))
    values = maps[:, 0].double().where(defined.view(-1, 1, 1), 0.0)
    low, high = values.amin(dim=(1, 2), keepdim=True), values.amax(dim=(1, 2), keepdim=True)
    # An undefined map has no span; it is overwritten below.
    scaled = (values - low) / (high - low).where(high > low, 1.0)
    place = (scaled * bins).long().clamp_max(bins - 1) + on * bins
    counts = scaled.new_zeros(len(maps), 2 * bins)
    counts.scatter_add_(1, place.flatten(1), counted.double().flatten(1))
    return counts.where(defined[:, None], torch.nan).view(-1, 2, bins)


def pixel_average_precision(histograms: Tensor) -> Tensor:
    r"""Area under the precision-recall curve of pixels, :math:`\sum_k P_k (R_k - R_{k-1})`.

    Args:
        histograms: ``(..., 2, bins)`` counts off and on the object, of one image or summed over a set.

    Returns:
        ``(...)`` in [0, 1]; NaN without a pixel on an object.

    References:
        choe2020wsol

    Differs from:
        - The value 1 shares the last bin instead of having its own.

    >>> float(pixel_average_precision(torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.0, 1.0]])))
    0.75
    """
    off, on = histograms.flip(-1).cumsum(dim=-1).unbind(dim=-2)
    precision = on / (on + off).clamp_min(torch.finfo(on.dtype).tiny)
    gained = histograms[..., 1, :].flip(-1)
    return (precision * gained).sum(dim=-1) / on[..., -1]


def _level_ious(
    maps: Tensor,
    boxes: Sequence[Tensor],
    overlap: Callable[[Components, Sequence[Tensor]], Tensor],
    chunk_size: int,
) -> Tensor:
    if maps.ndim != 4 or maps.shape[1] != 1 or len(boxes) != len(maps):
        raise DataError(
            f"maps must be (B, 1, H, W) with one tensor of boxes each,"
            f" found {tuple(maps.shape)} and {len(boxes)} tensors"
        )
    check_range(1, chunk_size=chunk_size)
    defined = defined_maps(maps)
    sized = [bool(((box[:, 2:] - box[:, :2]) > 0).all(dim=1).any()) for box in boxes]
    defined &= torch.tensor(sized, dtype=torch.bool, device=maps.device)
    rows = maps.new_full((len(maps), NUM_LEVELS), torch.nan, dtype=torch.float64)
    for part in torch.split(torch.nonzero(defined)[:, 0], chunk_size):
        rows[part] = overlap(components(map_levels(maps[part])), [boxes[index] for index in part.tolist()])
    return rows


def _defined(maps: Tensor, object_masks: Tensor) -> Tensor:
    """``(B,)`` bool: maps and masks that can be scored."""
    expected = (len(maps), 1, *object_masks.shape[1:])
    if object_masks.ndim != 3 or tuple(maps.shape) != expected or object_masks.dtype != torch.bool:
        raise DataError(
            "maps must be (B, 1, H, W) and object masks (B, H, W) bool,"
            f" found {tuple(maps.shape)} and {tuple(object_masks.shape)} {object_masks.dtype}"
        )
    return defined_maps(maps) & object_masks.any(dim=(1, 2))
