"""Boxes of the connected components of a map, at every threshold at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.errors import DataError

__all__ = [
    "NUM_LEVELS",
    "Components",
    "best_ious",
    "box_iou",
    "components",
    "largest_boxes",
    "largest_ious",
    "map_levels",
]

NUM_LEVELS = 255
"""Distinct foregrounds of an 8-bit map: level t keeps the values above t, for t in 0..254."""

# Below every coordinate and every negated one.
_LOWEST = -(1 << 30)


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

    Every pixel climbs to a peak; two peaks are connected at t if a chain of borders between their basins
    lies above t. So the components of all levels follow from one small tree over the peaks. Time grows with
    the number of pixels plus peaks times levels, memory with peaks times levels.

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
    count, height, width = levels.shape
    values = levels.to(torch.int16)
    if values.numel() and not 0 <= int(values.min()) <= int(values.max()) <= num_levels:
        raise DataError(
            f"levels must lie in 0..{num_levels}, found {int(values.min())}..{int(values.max())};"
            " scale maps with map_levels"
        )
    peaks, basin = _basins(values)
    node, passed = _merge_tree(_borders(values, basin), len(peaks))
    level, top, pixels, corners = _merged(values, basin, _tops(node, passed, num_levels))
    left, upper, right, lower = corners.unbind(dim=1)
    return Components(
        count=count,
        levels=num_levels,
        image=peaks[top] // (height * width),
        level=level,
        pixels=pixels,
        first=-upper,
        box=torch.stack([-left, -upper // width, right + 1, lower + 1], dim=1),
    )


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


def box_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of half-open boxes; a box without area overlaps with nothing.

    Args:
        boxes: ``(..., 4)`` xyxy.
        others: broadcastable to the boxes.

    Returns:
        ``(...)`` float64 in [0, 1].

    >>> float(box_iou(torch.tensor([0, 0, 2, 2]), torch.tensor([1, 0, 3, 2])))
    0.3333333333333333
    """
    boxes, others = boxes.double(), others.double()
    common = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    shared = common.clamp_min(0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).clamp_min(0).prod(dim=-1) for box in (boxes, others)]
    union = areas[0] + areas[1] - shared
    return torch.where(shared > 0, shared / union, 0.0)


def largest_ious(found: Components, boxes: Sequence[Tensor]) -> Tensor:
    """Overlap of the largest component's box with the nearest true box.

    Args:
        found: components of B maps.
        boxes: per map ``(N_i, 4)`` true boxes, xyxy, half-open.

    Returns:
        ``(B, L)`` float64; 0 without a component or a true box.
    """
    true = _padded(boxes, found.box.device)
    return box_iou(largest_boxes(found)[:, :, None], true[:, None]).amax(dim=2)


def best_ious(found: Components, boxes: Sequence[Tensor]) -> Tensor:
    """Greatest overlap of any component's box with any true box; otherwise as :func:`largest_ious`."""
    true = _padded(boxes, found.box.device)
    overlap = box_iou(found.box[:, None], true[found.image]).amax(dim=1)
    best = overlap.new_zeros(found.count * found.levels)
    best.scatter_reduce_(0, found.image * found.levels + found.level, overlap, "amax")
    return best.view(found.count, found.levels)


def _padded(boxes: Sequence[Tensor], device: torch.device) -> Tensor:
    """``(B, M, 4)``; boxes without area fill up, and M is at least 1."""
    rows = torch.zeros(len(boxes), max((len(box) for box in boxes), default=0) or 1, 4, device=device)
    for row, box in zip(rows, boxes, strict=True):
        row[: len(box)] = box
    return rows


def _basins(values: Tensor) -> tuple[Tensor, Tensor]:
    """Peaks ``(P,)`` as flat indices, and the number of the peak ``(B, H, W)`` that each pixel climbs to.

    A pixel steps to the highest of its nine neighbours, of equals to the first, until it stands on itself.
    No step goes down, so a pixel and its peak are connected at every level below the pixel's value.
    """
    count, height, width = values.shape
    steps = F.max_pool2d(values[:, None].float(), 3, stride=1, padding=1, return_indices=True)[1][:, 0]
    starts = torch.arange(count, device=values.device).view(-1, 1, 1) * (height * width)
    summit = _followed((steps + starts).flatten())
    own = summit == torch.arange(len(summit), device=values.device)
    peaks = torch.nonzero(own & (values.flatten() > 0))[:, 0]
    number = torch.zeros_like(summit)
    number[peaks] = torch.arange(len(peaks), device=values.device)
    return peaks, number[summit].view_as(values)


def _followed(step: Tensor) -> Tensor:
    """Where each item of a forest ends up if it follows ``step (N,)`` to the root."""
    while not torch.equal(further := step[step], step):
        step = further
    return step


def _borders(values: Tensor, basin: Tensor) -> Tensor:
    """``(3, E)`` int64: pairs of neighbouring pixels in different basins, and the lower of their values."""
    width = values.shape[2]
    found = []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(None), slice(None, -down or None), slice(max(-right, 0), width - max(right, 0)))
        there = (slice(None), slice(down, None), slice(max(right, 0), width - max(-right, 0)))
        height = torch.minimum(values[here], values[there])
        apart = (basin[here] != basin[there]) & (height > 0)
        found.append(torch.stack([basin[here][apart], basin[there][apart], height[apart].long()]))
    return torch.cat(found, dim=1)


def _merge_tree(borders: Tensor, peaks: int) -> tuple[Tensor, Tensor]:
    """Parent ``(P,)`` of every peak, and the height ``(P,)`` of the pass to it; roots have 0.

    Boruvka's algorithm: every group of peaks joins the neighbour across its highest pass, until none has a
    neighbour. A group's later passes are never higher than its earlier ones, so the peaks that are connected
    at level t are those that reach the same peak over passes above t.
    """
    own = torch.arange(peaks, device=borders.device)
    parent, passed = own.clone(), torch.zeros_like(own)
    total = max(borders.shape[1], 1)
    # Ties are broken by the number of the border, so that no cycle of equals can close.
    ranked = borders[2] * total + torch.arange(borders.shape[1], device=borders.device)
    one, two, key = borders[0], borders[1], ranked
    group = own
    while len(key):
        best = torch.full_like(own, -1)
        best.scatter_reduce_(0, one, key, "amax").scatter_reduce_(0, two, key, "amax")
        joins = torch.nonzero(best >= 0)[:, 0]
        border = best[joins] % total
        step = own.clone()
        step[joins] = group[borders[0, border]] + group[borders[1, border]] - joins
        # Two groups that chose each other: one of them becomes the root.
        step = torch.where((step[step] == own) & (own < step), own, step)
        moved = step != own
        parent[moved], passed[moved] = step[moved], best[moved] // total
        root = _followed(step)
        group = root[group]
        one, two = root[one], root[two]
        apart = one != two
        one, two, key = one[apart], two[apart], key[apart]
    return parent, passed


def _tops(parent: Tensor, passed: Tensor, num_levels: int) -> Tensor:
    """``(L, P)``: the peak that stands for each peak's component at every level."""
    level = torch.arange(num_levels, device=parent.device)[:, None]
    top = torch.where(passed > level, parent, torch.arange(len(parent), device=parent.device))
    while not torch.equal(further := top.gather(1, top), top):
        top = further
    return top


def _merged(values: Tensor, basin: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Level, standing peak, pixels ``(N,)`` and extreme coordinates ``(N, 4)`` of every component.

    The coordinates are the greatest of -x, -row-major index, x and y.
    """
    _, height, width = values.shape
    foreground = torch.nonzero(values.flatten() > 0)[:, 0]
    place = foreground % (height * width)
    x, y = place % width, place // width
    # A pixel of value v is in the foreground at levels 0..v-1: entered at v-1, then carried downwards.
    cell = (values.flatten()[foreground].long() - 1) * top.shape[1] + basin.flatten()[foreground]
    pixels = torch.zeros_like(top, dtype=torch.int32)
    pixels.view(-1).scatter_add_(0, cell, torch.ones_like(cell, dtype=torch.int32))
    carried = pixels.flip(0).cumsum(dim=0, dtype=torch.int32).flip(0)
    pixels = torch.zeros_like(pixels).scatter_add_(1, top, carried)
    level, peak = torch.nonzero(pixels, as_tuple=True)
    corners = []
    for coordinate in (-x, -place, x, y):
        extreme = torch.full_like(pixels, _LOWEST)
        extreme.view(-1).scatter_reduce_(0, cell, coordinate.int(), "amax")
        extreme = extreme.flip(0).cummax(dim=0).values.flip(0)
        merged = torch.full_like(pixels, _LOWEST).scatter_reduce_(1, top, extreme, "amax")
        corners.append(merged[level, peak].long())
    return level, peak, pixels[level, peak].long(), torch.stack(corners, dim=1)
