"""In which order the pixels of an image are removed or shown."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.errors import ConfigError, DataError

__all__ = ["Order", "check_maps", "pixel_ranks", "removal_counts", "tied_share"]

Order = Literal["most_relevant_first", "least_relevant_first"]


def check_maps(maps: Tensor, images: Tensor) -> None:
    """Raise unless there is one map per image, ``(B, 1, H, W)``, at the image's resolution.

    Raises:
        DataError: naming the shape found and the one expected.
    """
    expected = (len(images), 1, *images.shape[-2:])
    if tuple(maps.shape) != expected:
        raise DataError(
            f"saliency maps must be {expected}, one (1, H, W) per image at its resolution, found"
            f" {tuple(maps.shape)}; resize them with verisal.saliency.gates.masks.resize_maps"
        )


def pixel_ranks(maps: Tensor, *, order: Order = "most_relevant_first", block_size: int = 1) -> Tensor:
    """Place of every pixel in the order of removal, from 0.

    The sort is stable in both orders: equal pixels keep their row-major order. With a ``block_size`` above 1
    the image is cut into square cells from the upper left corner (narrower at the right and lower border);
    cells are ordered by the mean of their pixels, and the pixels of a cell follow each other in row-major
    order.

    Args:
        maps: ``(B, 1, H, W)``.
        order: which end of the map comes first.
        block_size: side of the cells in pixels.

    Returns:
        ``(B, 1, H, W)`` int32, a permutation of 0..H*W - 1 per map.

    Raises:
        ConfigError: an unknown order or a block size below 1.

    >>> maps = torch.tensor([[[[0.2, 0.9], [0.2, 0.1]]]])
    >>> pixel_ranks(maps).flatten().tolist()
    [1, 0, 2, 3]
    >>> pixel_ranks(maps, order="least_relevant_first").flatten().tolist()
    [1, 3, 2, 0]
    """
    if order not in ("most_relevant_first", "least_relevant_first"):
        raise ConfigError(f"order must be 'most_relevant_first' or 'least_relevant_first', found {order!r}")
    ranks = _ranks(_cells(maps, block_size).flatten(1), descending=order == "most_relevant_first")
    if block_size > 1:
        ranks = _ranks(ranks.gather(1, _cell_of_pixels(maps, block_size)), descending=False)
    return ranks.int().view(maps.shape)


def tied_share(maps: Tensor, *, block_size: int = 1) -> Tensor:
    """``(B,)``: share of the pixels (of the cells, if there are any) whose relevance another one has too.

    Their order says nothing about the map. Takes what :func:`pixel_ranks` takes.

    >>> tied_share(torch.tensor([[[[0.2, 0.9], [0.2, 0.1]]]])).tolist()
    [0.5]
    """
    ordered = _cells(maps, block_size).flatten(1).sort(dim=1).values
    same = ordered[:, 1:] == ordered[:, :-1]
    return (F.pad(same, (1, 0)) | F.pad(same, (0, 1))).float().mean(dim=1)


def removal_counts(pixels: int, steps: int) -> list[int]:
    """How many of ``pixels`` are changed at each of the ``steps + 1`` points of a curve, both ends included.

    >>> removal_counts(10, 4)
    [0, 2, 5, 8, 10]
    """
    return [round(point * pixels / steps) for point in range(steps + 1)]


def _cells(maps: Tensor, block_size: int) -> Tensor:
    """``(B, h, w)``: mean over the pixels of every cell."""
    if block_size < 1:
        raise ConfigError(f"block_size must be at least 1 pixel, found {block_size}")
    if block_size == 1:
        return maps[:, 0]
    return F.avg_pool2d(maps, block_size, ceil_mode=True)[:, 0]


def _cell_of_pixels(maps: Tensor, block_size: int) -> Tensor:
    """``(B, H*W)`` int64: number of each pixel's cell."""
    height, width = (torch.arange(size, device=maps.device) // block_size for size in maps.shape[2:])
    return (height[:, None] * (width[-1] + 1) + width).flatten().expand(len(maps), -1)


def _ranks(values: Tensor, *, descending: bool) -> Tensor:
    """``(B, n)`` int64: place of every value in a stable sort."""
    order = values.sort(dim=1, descending=descending, stable=True).indices
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
