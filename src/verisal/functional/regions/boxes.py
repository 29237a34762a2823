"""Boxes of the connected components of a map, at every threshold at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou  # type: ignore[import-untyped]  # has no stubs

from verisal.errors import DataError
from verisal.functional.regions.component_tree import component_rows

NUM_LEVELS = 255
"""Distinct foregrounds of an 8-bit map: level t keeps the values above t, for t in 0..254."""


@dataclass(frozen=True)
class Components:
    """The 8-connected components of B maps at L levels, one row each, in no particular order.

    Attributes:
        count: number of maps B.
        levels: number of levels L.
        image: ``(N,)`` int64, which map.
        level: ``(N,)`` int64 in 0..L-1, which level.
        pixels: ``(N,)`` int64, size in pixels.
        first: ``(N,)`` int64, row-major index of the first pixel.
        box: ``(N, 4)`` int64 xyxy, half-open, tight.
    """

    count: int
    levels: int
    image: Tensor
    level: Tensor
    pixels: Tensor
    first: Tensor
    box: Tensor


def map_levels(maps: Tensor, *, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    r"""Maps in whole steps, :math:`\lfloor 255 (S - low) / (high - low) \rfloor`, cut off at 0 and 255.

    Args:
        maps: ``(B, 1, H, W)`` finite.
        low: ``(B,)`` value that becomes 0; each map's minimum where None.
        high: ``(B,)`` value that becomes 255; each map's maximum where None. Where it is not above ``low``,
            the whole map becomes 0.

    Returns:
        ``(B, H, W)`` uint8.
    """
    values = maps[:, 0].double()
    bottom = values.amin(dim=(1, 2)) if low is None else low.double()
    top = values.amax(dim=(1, 2)) if high is None else high.double()
    span = (top - bottom).view(-1, 1, 1)
    scaled = (values - bottom.view(-1, 1, 1)) / span.clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where(span > 0, scaled.clamp(0, 1) * 255, 0.0).to(torch.uint8)


def components(levels: Tensor, *, num_levels: int = NUM_LEVELS) -> Components:
    """Components of ``levels > t`` for every t in 0..``num_levels`` - 1, without labelling any of them.

    Time and memory grow with the number of pixels and of components, not of levels.

    Args:
        levels: ``(B, H, W)`` whole numbers in 0..``num_levels``, e.g. :func:`map_levels`, or a bool mask with
            ``num_levels`` 1.
        num_levels: number of levels L.

    Returns:
        Components on the device of the levels; none where nothing is above a level.

    Raises:
        DataError: not three dimensions, or a value outside the range.

    >>> parts = components(torch.tensor([[[3, 0, 1], [0, 0, 0], [2, 2, 0]]]), num_levels=3)
    >>> sorted(zip(parts.level.tolist(), parts.pixels.tolist(), parts.box.tolist()))[-2:]
    [(1, 2, [0, 2, 2, 3]), (2, 1, [0, 0, 1, 1])]
    """
    if levels.ndim != 3:
        raise DataError(f"levels must be (B, H, W), found {tuple(levels.shape)}")
    if levels.numel() and not 0 <= int(levels.min()) <= int(levels.max()) <= num_levels:
        raise DataError(
            f"levels must lie in 0..{num_levels}, found {int(levels.min())}..{int(levels.max())};"
            " scale maps with map_levels"
        )
    return Components(count=len(levels), levels=num_levels, **component_rows(levels)._asdict())


def largest_boxes(parts: Components) -> Tensor:
    """Box of the largest component of every map and level; of equals the one that starts first.

    Returns:
        ``(B, L, 4)`` int64 xyxy, half-open; all 0 where nothing is above the level.
    """
    cell = parts.image * parts.levels + parts.level
    longest = int(parts.first.max()) + 1 if len(parts.first) else 1
    key = parts.pixels * longest + (longest - 1 - parts.first)
    best = key.new_zeros(parts.count * parts.levels).scatter_reduce_(0, cell, key, "amax")
    chosen = key == best[cell]
    boxes = parts.box.new_zeros(parts.count * parts.levels, 4)
    boxes[cell[chosen]] = parts.box[chosen]
    return boxes.view(parts.count, parts.levels, 4)


def nearest_ious(predicted: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Overlap of each predicted box with the nearest true box of its image; a box without area has none.

    Args:
        predicted: ``(B, 4)`` or ``(B, L, 4)`` xyxy, half-open.
        boxes: per image ``(N_i, 4)`` true boxes, xyxy, half-open.

    Returns:
        Float64, shaped like the boxes without the last dimension; 0 without a true box.

    >>> nearest_ious(torch.tensor([[0, 0, 2, 2]]), [torch.tensor([[1, 0, 3, 2]])]).tolist()
    [0.3333333333333333]
    """
    whole = predicted if predicted.ndim == 3 else predicted[:, None]
    return _ious(whole, _padded(boxes, predicted.device)).amax(dim=-1).view(predicted.shape[:-1])


def best_ious(parts: Components, boxes: Sequence[Tensor]) -> Tensor:
    """Greatest overlap of any component's box with any true box, at every level.

    Args:
        parts: components of B maps.
        boxes: per map ``(N_i, 4)`` true boxes, xyxy, half-open.

    Returns:
        ``(B, L)`` float64; 0 without a component or a true box.
    """
    true = _padded(boxes, parts.box.device)
    overlap = _ious(parts.box[:, None], true[parts.image]).amax(dim=(1, 2))
    best = overlap.new_zeros(parts.count * parts.levels)
    best.scatter_reduce_(0, parts.image * parts.levels + parts.level, overlap, "amax")
    return best.view(parts.count, parts.levels)


def _ious(boxes: Tensor, others: Tensor) -> Tensor:
    """``(..., N, M)`` float64 of boxes ``(..., N, 4)`` and ``(..., M, 4)``."""
    overlaps: Tensor = box_iou(boxes.double(), others.double())
    # Two boxes without area.
    return overlaps.nan_to_num(nan=0.0)


def _padded(boxes: Sequence[Tensor], device: torch.device) -> Tensor:
    """``(B, M, 4)``; boxes without area fill up, and M is at least 1."""
    rows = torch.zeros(len(boxes), max((len(box) for box in boxes), default=0) or 1, 4, device=device)
    for row, box in zip(rows, boxes, strict=True):
        row[: len(box)] = box
    return rows
