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

    >>> found = components(torch.tensor([[[3, 0, 1], [0, 0, 0], [2, 2, 0]]]), num_levels=3)
    >>> sorted(zip(found.level.tolist(), found.pixels.tolist(), found.box.tolist()))[-2:]
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


def largest_boxes(found: Components) -> Tensor:
    """Box of the largest component of every map and level; of equals the one that starts first.

    Returns:
        ``(B, L, 4)`` int64 xyxy, half-open; all 0 where nothing is above the level.
    """
    cell = found.image * found.levels + found.level
    longest = int(found.first.max()) + 1 if len(found.first) else 1
    key = found.pixels * longest + (longest - 1 - found.first)
    best = key.new_zeros(found.count * found.levels).scatter_reduce_(0, cell, key, "amax")
    chosen = key == best[cell]
    boxes = found.box.new_zeros(found.count * found.levels, 4)
    boxes[cell[chosen]] = found.box[chosen]
    return boxes.view(found.count, found.levels, 4)


def nearest_ious(found: Tensor, boxes: Sequence[Tensor]) -> Tensor:
    """Overlap of each found box with the nearest true box of its image; a box without area has none.

    Args:
        found: ``(B, 4)`` or ``(B, L, 4)`` xyxy, half-open.
        boxes: per image ``(N_i, 4)`` true boxes, xyxy, half-open.

    Returns:
        Float64, shaped like the boxes without the last dimension; 0 without a true box.

    >>> nearest_ious(torch.tensor([[0, 0, 2, 2]]), [torch.tensor([[1, 0, 3, 2]])]).tolist()
    [0.3333333333333333]
    """
    whole = found if found.ndim == 3 else found[:, None]
    return _ious(whole, _padded(boxes, found.device)).amax(dim=-1).view(found.shape[:-1])


def best_ious(found: Components, boxes: Sequence[Tensor]) -> Tensor:
    """Greatest overlap of any component's box with any true box, at every level.

    Args:
        found: components of B maps.
        boxes: per map ``(N_i, 4)`` true boxes, xyxy, half-open.

    Returns:
        ``(B, L)`` float64; 0 without a component or a true box.
    """
    true = _padded(boxes, found.box.device)
    overlap = _ious(found.box[:, None], true[found.image]).amax(dim=(1, 2))
    best = overlap.new_zeros(found.count * found.levels)
    best.scatter_reduce_(0, found.image * found.levels + found.level, overlap, "amax")
    return best.view(found.count, found.levels)


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
