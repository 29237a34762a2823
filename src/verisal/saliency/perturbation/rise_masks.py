"""Smooth random masks from coarse grids of cells, many at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.errors import ConfigError

__all__ = ["cell_size", "upsample_cells"]


def cell_size(cells: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels of one cell when ``cells`` of them span ``size`` (H, W), rounded up.

    Raises:
        ConfigError: more cells than pixels, or none.
    """
    if not 1 <= cells <= min(size):
        raise ConfigError(
            f"cells must lie between 1 and the image's smaller side, found cells={cells} for an image of"
            f" {size[0]} x {size[1]} px"
        )
    return -(-size[0] // cells), -(-size[1] // cells)


def upsample_cells(
    cells: Tensor, shifts: Tensor, size: tuple[int, int], *, out: Tensor | None = None
) -> Tensor:
    r"""Grids of cells enlarged to one cell more than the image, shifted and cropped to it.

    A grid is resized bilinearly to :math:`(s + 1) \lceil H / s \rceil` by
    :math:`(s + 1) \lceil W / s \rceil` pixels, and the window of the image's size that starts at the grid's
    shift is kept. Resizing is linear along each axis, so that a mask is :math:`R\,G\,C^\top` with rows of two
    small matrices that the shift selects: resizing, shift and crop of all grids are two batched products.

    Border rule: pixel centres, as ``align_corners=False``; beyond the centres of the outermost cells their
    value stays.

    Args:
        cells: ``(N, s, s)`` float, usually 0 or 1.
        shifts: ``(N, 2)`` int64 on the same device, rows and columns, from 0 to one less than the cell size
            (see :func:`cell_size`).
        size: (H, W) in pixels.
        out: ``(N, 1, H, W)`` contiguous, filled and returned instead of a new tensor; it spares the memory of
            large masks being mapped anew each time.

    Returns:
        ``(N, 1, H, W)``, within the range of the cells.

    Raises:
        ConfigError: more cells than pixels.

    References:
        petsiuk2018rise
    """
    count, side = len(cells), cells.shape[-1]
    heights, widths = cell_size(side, size)
    rows = _windows(side, heights, size[0], cells)[shifts[:, 0]]
    columns = _windows(side, widths, size[1], cells)[shifts[:, 1]]
    masks = cells.new_empty(count, 1, *size) if out is None else out
    torch.bmm(rows.transpose(1, 2), torch.bmm(cells, columns), out=masks.view(count, *size))
    return masks


def _windows(side: int, cell: int, length: int, like: Tensor) -> Tensor:
    """``(cell, side, length)``: for every shift, each cell's weight in each pixel of one axis; a view."""
    axis = torch.eye(side, device=like.device, dtype=like.dtype)[None]
    enlarged = F.interpolate(axis, size=(side + 1) * cell, mode="linear", align_corners=False)[0]
    return enlarged.unfold(1, length, 1).transpose(0, 1)
