"""Named tensors as a CNN reads them: one stack of maps, and values per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from verisal.detectors._fitting import matching
from verisal.errors import ConfigError
from verisal.saliency.gates.masks import stack_layers

__all__ = ["map_stack", "scalar_stack"]


def map_stack(
    measured: Mapping[str, Tensor], reads: Sequence[str], *, folds: Sequence[str], grid: int
) -> Tensor:
    """Tensors whose names match ``reads``, side by side on one grid: ``(B, C, grid, grid)`` float32.

    Those that match ``folds`` become blocks of pixels as channels before, so that nothing is averaged away;
    bytes are divided by 255.

    Raises:
        ConfigError: a pattern that matches nothing, or a tensor that is no map.
    """
    layers = []
    for name in matching(measured, reads):
        maps = measured[name]
        if maps.ndim != 4:
            raise ConfigError(
                f"{name} is {tuple(maps.shape)}, not a map (B, C, h, w); name it in scalars, not in reads"
            )
        maps = maps.float() / 255 if maps.dtype == torch.uint8 else maps.float()
        folded = any(fnmatchcase(name, pattern) for pattern in folds)
        layers.append(_fold(maps, grid) if folded else maps)
    return stack_layers(layers, (grid, grid)).contiguous(memory_format=torch.channels_last)


def scalar_stack(measured: Mapping[str, Tensor], names: Sequence[str]) -> Tensor | None:
    """Tensors ``(B,)`` and ``(B, K)`` whose names match, side by side: ``(B, S)`` float32; None without any.

    Rows of ``(B, K)`` are sorted, largest first: what stands where must not name a class.

    Raises:
        ConfigError: a pattern that matches nothing, or a tensor that is a map.
    """
    columns = []
    for name in matching(measured, names):
        values = measured[name].float()
        if values.ndim > 2:
            raise ConfigError(
                f"{name} is {tuple(values.shape)}, not (B,) or (B, K); name it in reads, not in scalars"
            )
        columns.append(values[:, None] if values.ndim == 1 else values.sort(dim=1, descending=True).values)
    return torch.cat(columns, dim=1) if columns else None


def _fold(maps: Tensor, grid: int) -> Tensor:
    """Blocks of pixels as channels; their side is the largest that leaves at least the grid.

    Not ``pixel_unshuffle``, which gives an empty batch another number of channels.
    """
    count, channels, height, width = maps.shape
    side = min(height, width)
    block = max(
        size
        for size in range(1, side + 1)
        if height % size == 0 and width % size == 0 and side // size >= min(grid, side)
    )
    blocks = maps.reshape(count, channels, height // block, block, width // block, block)
    folded = blocks.permute(0, 1, 3, 5, 2, 4)
    return folded.reshape(count, channels * block**2, height // block, width // block)
