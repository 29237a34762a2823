"""Gaussian blur by matrices, and a shift by one pixel."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_matrix(length: int, sigma: float, *, taps: int | None = None) -> Tensor:
    """``(length, length)`` float32: row *i* averages around pixel *i*.

    Beyond the ends the axis is reflected about its end pixels, as often as it takes.

    Args:
        length: pixels of the axis.
        sigma: standard deviation in pixels; 0 gives the identity.
        taps: odd number of pixels averaged; None stands for all within three sigmas, rounded up.
    """
    radius = math.ceil(3 * sigma) if taps is None else taps // 2
    if radius < 1:
        return torch.eye(length)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    period = max(2 * (length - 1), 1)
    source = (torch.arange(length)[:, None] + offsets).abs() % period
    source = torch.minimum(source, period - source).clamp_max(length - 1)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    return matrix.scatter_add_(1, source, (weights / weights.sum()).expand(length, -1)).float()


def gaussian_blur(images: Tensor, sigma: float, *, taps: int | None = None) -> Tensor:
    """Images ``(..., H, W)`` under the Gaussian of :func:`gaussian_matrix`, as two small matrix products."""
    down, across = (gaussian_matrix(length, sigma, taps=taps).to(images) for length in images.shape[-2:])
    return down @ images @ across.T


def shift_one_pixel(images: Tensor) -> Tensor:
    """Images ``(B, C, H, W)`` moved one pixel right and down; the first row and column are repeated.

    >>> shift_one_pixel(torch.arange(4.0).view(1, 1, 2, 2))[0, 0]
    tensor([[0., 0.],
            [0., 0.]])
    """
    moved = F.pad(images, (1, 0, 1, 0), mode="replicate")[..., :-1, :-1]
    return moved.contiguous(memory_format=torch.channels_last)
