"""Blurs, means and medians over windows, moves by whole pixels, scaling down and up, and frequencies."""

from __future__ import annotations

import math
from typing import Literal

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


def move(images: Tensor, *, right: int, down: int) -> Tensor:
    """Images ``(B, C, H, W)`` moved by whole pixels, negative numbers to the left and up; edges are repeated.

    >>> move(torch.arange(4.0).view(1, 1, 2, 2), right=-1, down=0)[0, 0]
    tensor([[1., 1.],
            [3., 3.]])
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)), mode="replicate")
    top, left = max(-down, 0), max(-right, 0)
    moved = padded[..., top : top + height, left : left + width]
    return moved.contiguous(memory_format=torch.channels_last)


def shift_one_pixel(images: Tensor) -> Tensor:
    """Images ``(B, C, H, W)`` moved one pixel right and down; the first row and column are repeated.

    >>> shift_one_pixel(torch.arange(4.0).view(1, 1, 2, 2))[0, 0]
    tensor([[0., 0.],
            [0., 0.]])
    """
    return move(images, right=1, down=1)


def mean_filter(images: Tensor, size: int) -> Tensor:
    """Mean over windows of ``size`` x ``size`` pixels, channel by channel, edge pixels repeated outwards.

    A window of even side reaches one pixel further up and left than down and right.

    Args:
        images: ``(B, C, H, W)``.
        size: side of the window in pixels, at least 1.

    Returns:
        ``(B, C, H, W)``.
    """
    return F.avg_pool2d(_padded(images, size), size, stride=1)


def median_filter(images: Tensor, size: int) -> Tensor:
    """Median over windows of ``size`` x ``size`` pixels, channel by channel, edge pixels repeated outwards.

    A window of even side reaches one pixel further up and left than down and right, and takes the larger of
    the two middle values.

    Args:
        images: ``(B, C, H, W)``.
        size: side of the window in pixels, at least 1.

    Returns:
        ``(B, C, H, W)``.
    """
    height, width = images.shape[-2:]
    padded = _padded(images, size)
    return _median([padded[..., y : y + height, x : x + width] for y in range(size) for x in range(size)])


def _median(values: list[Tensor]) -> Tensor:
    """Median of N tensors, value by value; of an even N the larger of the two in the middle.

    Of N // 2 + 2 values neither the least nor the greatest can be it: both are dropped, and the next one
    joins. Only minima and maxima are taken, which are quick, have a gradient and can be exported.
    """
    left = len(values)
    held, others = values[: left // 2 + 2], values[left // 2 + 2 :]
    while left > 2:
        for place in range(1, len(held)):
            least, other = held[0], held[place]
            held[0], held[place] = torch.minimum(least, other), torch.maximum(least, other)
        for place in range(1, len(held) - 1):
            greatest, other = held[-1], held[place]
            held[-1], held[place] = torch.maximum(greatest, other), torch.minimum(greatest, other)
        held = [*held[1:-1], *others[:1]]
        others, left = others[1:], left - 2
    return held[0] if left == 1 else torch.maximum(*held)


def _padded(images: Tensor, size: int) -> Tensor:
    """Room for windows of a size around every pixel."""
    before, after = size // 2, size - 1 - size // 2
    return F.pad(images, (before, after, before, after), mode="replicate")


def scale_down_and_up(images: Tensor, factor: float) -> Tensor:
    """Images ``(B, C, H, W)`` made smaller by ``factor`` in (0, 1) and brought back to their size.

    Bilinear both ways, with the filter on the way down that keeps fine patterns from aliasing.
    """
    height, width = images.shape[-2:]
    small = (max(round(height * factor), 1), max(round(width * factor), 1))
    shrunk = F.interpolate(images, small, mode="bilinear", antialias=True)
    return F.interpolate(shrunk, (height, width), mode="bilinear")


def fourier(maps: Tensor, *, half: bool = False, norm: Literal["backward", "ortho"] = "backward") -> Tensor:
    """Fourier transform over the last two dimensions of ``(B, ..., H, W)``.

    Also of no maps, and of maps that share their memory, which torch 2.6 refuses.

    Args:
        maps: real.
        half: only frequencies across that are not negative.
        norm: as torch has it.
    """
    transform = torch.fft.rfft2 if half else torch.fft.fft2
    found: Tensor = transform(
        (maps if len(maps) else maps.new_zeros(1, *maps.shape[1:])).contiguous(), norm=norm
    )
    return found[: len(maps)]
