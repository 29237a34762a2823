"""Boxes of the connected components of a map, at every threshold at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal._brief import brief
from verisal.errors import DataError

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

    __repr__ = brief


def boxes_around(masks: Tensor) -> Tensor:
    """Half-open xyxy boxes ``(N, 4)`` around the true pixels of ``masks (N, H, W)``; zeros where is none.

    >>> boxes_around(torch.tensor([[[0, 0, 0], [0, 1, 1]]]).bool()).tolist()
    [[1.0, 1.0, 3.0, 2.0]]
    """
    columns, rows = masks.any(dim=1), masks.any(dim=2)
    left, top = columns.byte().argmax(dim=1), rows.byte().argmax(dim=1)
    right = masks.shape[2] - columns.flip(1).byte().argmax(dim=1)
    bottom = masks.shape[1] - rows.flip(1).byte().argmax(dim=1)
    boxes = torch.stack([left, top, right, bottom], dim=1) * rows.any(dim=1, keepdim=True)
    return boxes.float().cpu()


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
    # Older torchvisions' box_iou takes two dimensions alone.
    boxes, others = boxes.double()[..., :, None, :], others.double()[..., None, :, :]
    sides = torch.minimum(boxes[..., 2:], others[..., 2:]) - torch.maximum(boxes[..., :2], others[..., :2])
    common = sides.clamp(min=0).prod(dim=-1)
    areas = [(box[..., 2:] - box[..., :2]).prod(dim=-1) for box in (boxes, others)]
    overlaps = common / (areas[0] + areas[1] - common)
    # Two boxes without area.
    return overlaps.nan_to_num(nan=0.0)


def _padded(boxes: Sequence[Tensor], device: torch.device) -> Tensor:
    """``(B, M, 4)``; boxes without area fill up, and M is at least 1."""
    rows = torch.zeros(len(boxes), max((len(box) for box in boxes), default=0) or 1, 4, device=device)
    for row, box in zip(rows, boxes, strict=True):
        row[: len(box)] = box
    return rows


# Below every coordinate and every negated one.
_LOWEST = -(1 << 30)
# Half of a block's neighbours, down and right; the other half sees the same passes from the other side.
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


class ComponentRows(NamedTuple):
    """One row per component and level: map, level, pixels, row-major index of the first pixel, xyxy box."""

    image: Tensor
    level: Tensor
    pixels: Tensor
    first: Tensor
    box: Tensor


class _Chains(NamedTuple):
    """Rows of the components, for every peak those that it stands for, from its pass up to its own height.

    ``lower`` is the row of the component that contains a row's component one level below, N where there is
    none; ``offset (P,)`` is where the row of a peak at level 0 would be.
    """

    peak: Tensor
    level: Tensor
    lower: Tensor
    offset: Tensor


def component_rows(levels: Tensor) -> ComponentRows:
    """All components of ``levels > t`` for every whole t from 0, of ``levels (B, H, W)`` whole numbers."""
    height, width = levels.shape[1:]
    padded = F.pad(levels.long(), (0, width % 2, 0, height % 2))
    # Corners of the blocks (4, B, H / 2, W / 2): upper left, upper right, lower left, lower right.
    corners = torch.stack([padded[:, down::2, right::2] for down in (0, 1) for right in (0, 1)])
    highest = corners.amax(dim=0)
    passes = _passes(corners)
    peaks, basin = _basins(highest, passes)
    if not len(peaks):
        return ComponentRows(peaks, peaks, peaks, peaks, peaks.new_zeros(0, 4))
    parent, passed = _merge_tree(_borders(basin, passes), len(peaks))
    elder = _elders(parent, passed)
    chains = _chains(highest.flatten()[peaks], passed, elder)
    entries = _entries(corners, basin, passed, elder, chains)
    pixels, (left, right, lower, first) = _extents(corners, entries, chains, width)
    return ComponentRows(
        image=peaks[chains.peak] // (highest.shape[1] * highest.shape[2]),
        level=chains.level,
        pixels=pixels,
        first=-first,
        box=torch.stack([-left, -first // width, right + 1, lower + 1], dim=1),
    )


def _passes(corners: Tensor) -> tuple[Tensor, ...]:
    """Height of the pass from every block to its neighbour in each direction, over pixels that touch."""
    upper_left, upper_right, lower_left, lower_right = corners
    left, right = torch.maximum(upper_left, lower_left), torch.maximum(upper_right, lower_right)
    upper, lower = torch.maximum(upper_left, upper_right), torch.maximum(lower_left, lower_right)
    sides = ((right, left), (lower, upper), (lower_right, upper_left), (lower_left, upper_right))
    pairs = zip(sides, _neighbours(*corners.shape[2:]), strict=True)
    return tuple(torch.minimum(near[here], far[there]) for (near, far), (here, there) in pairs)


def _neighbours(height: int, width: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Per direction where the blocks with a neighbour lie in ``(B, h, w)``, and where their neighbours."""
    for down, right in _DIRECTIONS:
        here = (slice(None), slice(0, height - down), slice(max(-right, 0), width - max(right, 0)))
        there = (slice(None), slice(down, height), slice(max(right, 0), width - max(-right, 0)))
        yield here, there


def _basins(highest: Tensor, passes: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Peaks ``(P,)`` as flat block indices, and the number of the peak ``(B, h, w)`` that a block climbs to.

    A block steps to the highest neighbour, of equals to the first, to which the pass is as high as the block
    itself, until it stands on itself: so it is connected with its peak wherever it is in the foreground.
    """
    count, height, width = highest.shape
    size, device = height * width, highest.device
    # One key holds height and place: of equal heights the first place has the greatest.
    key = (highest + 1) * size - 1 - torch.arange(size, device=device).view(height, width)
    best = key.clone()
    for above, (here, there) in zip(passes, _neighbours(height, width), strict=True):
        for start, end in ((here, there), (there, here)):
            reached = torch.where(above >= highest[start], key[end], 0)
            best[start] = torch.maximum(best[start], reached)
    place = torch.arange(count * size, device=device)
    summit = _followed(place - place % size + (size - 1 - best.flatten() % size))
    peaks = torch.nonzero((summit == place) & (highest.flatten() > 0))[:, 0]
    number = torch.zeros_like(summit)
    number[peaks] = torch.arange(len(peaks), device=device)
    return peaks, number.gather(0, summit).view_as(highest)


def _followed(step: Tensor) -> Tensor:
    """Root of each item of a forest, following ``step (N,)``."""
    while not torch.equal(further := step.gather(0, step), step):
        step = further
    return step


def _borders(basin: Tensor, passes: tuple[Tensor, ...]) -> Tensor:
    """``(3, E)``: the two basins on either side of every pass between blocks, and its height."""
    borders = []
    for above, (here, there) in zip(passes, _neighbours(*basin.shape[1:]), strict=True):
        apart = torch.nonzero(((basin[here] != basin[there]) & (above > 0)).flatten())[:, 0]
        sides = (basin[here], basin[there], above)
        borders.append(torch.stack([side.flatten().gather(0, apart) for side in sides]))
    return torch.cat(borders, dim=1)


def _merge_tree(borders: Tensor, peaks: int) -> tuple[Tensor, Tensor]:
    """Parent ``(P,)`` of every peak, and the height ``(P,)`` of the pass to it; roots have 0.

    Boruvka's algorithm: every group of peaks joins the neighbour across its highest pass, until none has a
    neighbour. A group's later passes are never higher than its earlier ones, so the peaks that are connected
    at level t are those that reach the same peak over passes above t.
    """
    own = torch.arange(peaks, device=borders.device)
    parent, passed, group = own.clone(), torch.zeros_like(own), own
    total = borders.shape[1]
    # Ties are broken by the number of the border, so that no cycle of equals can close.
    near, far = borders[0], borders[1]
    key = borders[2] * total + torch.arange(borders.shape[1], device=borders.device)
    while len(key):
        best = torch.full_like(own, -1)
        best.scatter_reduce_(0, near, key, "amax").scatter_reduce_(0, far, key, "amax")
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
        near, far = root.gather(0, near), root.gather(0, far)
        apart = torch.nonzero(near != far)[:, 0]
        near, far, key = near[apart], far[apart], key[apart]
    return parent, passed


def _elders(parent: Tensor, passed: Tensor) -> Tensor:
    """``(P,)``: the peak that stands for each peak's component just below its pass, itself for a root.

    Passes fall strictly from elder to elder.
    """
    elder = parent
    while bool((below := (passed.gather(0, elder) >= passed) & (passed > 0)).any()):
        elder = torch.where(below, parent.gather(0, elder), elder)
    return elder


def _chains(height: Tensor, passed: Tensor, elder: Tensor) -> _Chains:
    lengths = height - passed
    offset = lengths.cumsum(dim=0) - lengths - passed
    peak = torch.repeat_interleave(torch.arange(len(height), device=height.device), lengths)
    row = torch.arange(len(peak), device=height.device)
    level = row - offset[peak]
    last = torch.where(passed > 0, offset[elder] + passed - 1, len(peak))
    lower = torch.where(level > passed[peak], row - 1, last[peak])
    return _Chains(peak=peak, level=level, lower=lower, offset=offset)


def _entries(corners: Tensor, basin: Tensor, passed: Tensor, elder: Tensor, chains: _Chains) -> Tensor:
    """``(4, N)``: the row of the component in which each pixel appears; one past the last for value 0."""
    value, peak = corners.view(4, -1), basin.flatten()
    row = chains.offset.gather(0, peak) + value - 1
    # A pixel of value v appears at level v - 1, in a component for which an elder may stand already.
    foreground = value > 0
    early = torch.nonzero(((passed.gather(0, peak) >= value) & foreground).flatten())[:, 0]
    climbing, bound = peak.gather(0, early % len(peak)), value.flatten().gather(0, early)
    while bool((below := passed.gather(0, climbing) >= bound).any()):
        climbing = torch.where(below, elder.gather(0, climbing), climbing)
    row.view(-1).scatter_(0, early, chains.offset.gather(0, climbing) + bound - 1)
    return torch.where(foreground, row, len(chains.peak))


def _extents(corners: Tensor, entries: Tensor, chains: _Chains, width: int) -> tuple[Tensor, Tensor]:
    """Pixels ``(N,)`` of every component, and the greatest ``(4, N)`` of its -x, x, y and -place."""
    _, count, height, half = corners.shape
    values = corners.view(4, -1)
    # Of two pixels in a column or row of a block the higher one reaches as far.
    left, right, upper, lower = (
        torch.where(values[first] >= values[second], entries[first], entries[second])
        for first, second in ((0, 2), (1, 3), (0, 1), (2, 3))
    )
    y = torch.arange(0, 2 * height, 2, device=corners.device)[:, None].expand(count, height, half).flatten()
    x = torch.arange(0, 2 * half, 2, device=corners.device).expand(count, height, half).flatten()
    place = y * width + x
    rows = len(chains.peak) + 1
    ones = torch.ones_like(entries).flatten()
    pixels = ones[:1].repeat(rows).zero_().scatter_add_(0, entries.flatten(), ones)
    extents = torch.full_like(pixels, _LOWEST).repeat(4, 1)
    across, down = torch.cat([left, right]), torch.cat([upper, lower])
    extents[0].scatter_reduce_(0, across, torch.cat([-x, -x - 1]), "amax")
    extents[1].scatter_reduce_(0, across, torch.cat([x, x + 1]), "amax")
    extents[2].scatter_reduce_(0, down, torch.cat([y, y + 1]), "amax")
    places = torch.cat([-place, -place - 1, -place - width, -place - width - 1])
    extents[3].scatter_reduce_(0, entries.flatten(), places, "amax")
    # Each row hands on to the row below, then to the 2nd, 4th, .. below: all that lies above arrives once.
    below = F.pad(chains.lower, (0, 1), value=rows - 1)
    while bool((below < rows - 1).any()):
        pixels = pixels.scatter_add(0, below, pixels)
        extents = extents.scatter_reduce(1, below.expand(4, -1), extents, "amax")
        below = below.gather(0, below)
    return pixels[:-1], extents[:, :-1]
