"""Masks of extremal perturbation: pooled from cells, held at an area, and shown by a pyramid of blurs."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.functional.filters import gaussian_blur

_COLDNESS = 20.0
"""Inverse temperature of the soft-max pooling."""
_RANK = 8
"""Exponentials that stand for every weight of the pooling, see :func:`smooth_max_weights`."""
_TIE = 1e-2
"""Pixels this near the area's threshold share what is left of the area; twice as far off none do."""
_CORNER = 0.02
"""Levels on both sides of one of a pyramid over which the slope below it goes over into the one above."""


def smooth_max_weights(step: int, sigma: float) -> Tensor:
    r"""Convolution weights with which :func:`smooth_max` pools cells ``step`` px apart.

    A cell at distance *d* weighs :math:`w = \exp(-2 \max(d / \sigma - 1/2, 0)^2)`. For values *m* in [0, 1],
    :math:`e^{T w m} \approx \sum_k a_k(w) e^{T w_k m}` with coefficients that are fitted here (error below
    0.2 %). So the sums over cells become convolutions of a few maps on the grid, one output channel per
    place of a pixel inside its block of ``step`` x ``step`` pixels, in the middle of which its cell sits.

    Args:
        step: distance of cells, in pixels, at least 1.
        sigma: reach of a cell, in pixels, positive.

    Returns:
        ``(2 * step ** 2, rank, taps, taps)`` float32: of the sum of exponentials, then of that weighted by w.
    """
    radius = 1 + math.ceil(sigma / step)
    cells = torch.arange(-radius, radius + 1, dtype=torch.float64) * step
    places = torch.arange(step, dtype=torch.float64) - (step - 1) / 2
    offsets = (places[:, None] - cells).square()
    distances = (offsets[:, None, :, None] + offsets[None, :, None, :]).sqrt()
    weights = (distances / sigma - 0.5).clamp_min(0).square().mul(-2).exp()
    distinct, where = torch.unique(weights, return_inverse=True)
    coefficients = _fit_exponentials(distinct)[where]
    both = torch.stack([coefficients, coefficients * weights[..., None]])
    taps = 2 * radius + 1
    return both.permute(0, 1, 2, 5, 3, 4).reshape(2 * step**2, _RANK, taps, taps).float()


def _nodes() -> Tensor:
    return (1 - torch.linspace(0, math.pi, _RANK, dtype=torch.float64).cos()) / 2


def _fit_exponentials(weights: Tensor) -> Tensor:
    """Coefficients ``(N, rank)`` of the exponentials for each of ``weights (N,)``, by least squares."""
    values = torch.linspace(0, 1, 101, dtype=torch.float64)
    # Divided by the target, so that the error is relative wherever the exponential is small or large.
    ratios = (_COLDNESS * (_nodes() - weights[:, None, None]) * values[:, None]).exp()
    scale = ratios.amax(dim=1, keepdim=True)
    # A slight pull to zero keeps large terms from cancelling each other in float32.
    pull = 1e-4 * torch.eye(_RANK, dtype=torch.float64).expand(len(weights), -1, -1)
    left = torch.cat([ratios / scale, pull], dim=1)
    right = torch.cat([torch.ones(len(values), 1), torch.zeros(_RANK, 1)]).double()
    solution: Tensor = torch.linalg.lstsq(left, right.expand(len(weights), -1, -1)).solution
    return solution[..., 0] / scale[:, 0]


def smooth_max(
    values: Tensor, weights: Tensor, *, step: int, size: tuple[int, int], margin: int = 0
) -> Tensor:
    r"""Smooth maximum of weighted cells around every pixel, the sum over cells *i* near pixel *u*.

    .. math:: m(u) = \frac{\sum_i w_{ui} m_i e^{T w_{ui} m_i}}{\sum_i e^{T w_{ui} m_i}}, \qquad T = 20.

    Blocks of ``step`` x ``step`` pixels, a cell in the middle, are centred on the image (to half a pixel,
    where they overlap its border by an odd number); cells outside the grid count as 0.

    Args:
        values: ``(N, 1, ceil(H / step), ceil(W / step))`` in [0, 1].
        weights: of :func:`smooth_max_weights` for the same ``step``.
        step: distance of cells, in pixels.
        size: ``(H, W)``.
        margin: pixels around the image that are pooled as well, at least 0.

    Returns:
        ``(N, 1, H + 2 * margin, W + 2 * margin)``, within 1e-4 of the formula.
    """
    around = math.ceil(margin / step)
    padded = F.pad(values, (around + weights.shape[-1] // 2,) * 4)
    powers = (padded * (_COLDNESS * _nodes().to(padded)).view(1, -1, 1, 1)).exp()
    sums = F.conv2d(torch.cat([powers, padded * powers], dim=1), weights, groups=2)
    below, above = sums.chunk(2, dim=1)
    blocks = F.pixel_shuffle(above / below, step)
    plane = [length + 2 * margin for length in size]
    top, left = ((blocks.shape[dim] - plane[dim - 2]) // 2 for dim in (2, 3))
    return blocks[:, :, top : top + plane[0], left : left + plane[1]]


def area_deviation(masks: Tensor, count: int) -> Tensor:
    r"""Squared distance of masks from having ``count`` pixels at 1 and the others at 0.

    .. math:: \frac{1}{HW} \sum (\mathrm{vecsort}(m) - r)^2, \qquad r = 0, \dots, 0, 1, \dots, 1

    The gradient is :math:`2 (m - r) / HW`, with one change that makes it continuous: pixels within 0.01 of
    the threshold between the two parts share what is left of the area, and from there to 0.02 the share goes
    over into 0 or 1. So neither rounding nor the order of equal pixels decides who is in.

    Masks are ``(N, 1, H, W)`` in [0, 1], ``count`` lies in 1 to H * W, and the distances are ``(N,)``.
    """
    pixels = masks.flatten(1)
    with torch.no_grad():
        area = pixels.topk(count, dim=1, sorted=False).values
        value = pixels.square().sum(dim=1) - 2 * area.sum(dim=1) + count
        distance = (pixels - area.amin(dim=1, keepdim=True)) / _TIE
        above = (distance - 1).clamp(0, 1)
        tied = 1 - above - (-distance - 1).clamp(0, 1)
        share = (count - above.sum(dim=1, keepdim=True)) / tied.sum(dim=1, keepdim=True)
        slope = 2 * (pixels - above - tied * share)
    return (value + (slope * (pixels - pixels.detach())).sum(dim=1)) / pixels.shape[1]


def blur_pyramid(images: Tensor, *, levels: int, max_sigma: float) -> Tensor:
    """Images blurred less and less ``(B, levels, C, H, W)``, the last level being the image itself.

    Level *k* of at least two has sigma ``max_sigma * (1 - k / (levels - 1))``, in pixels.
    """
    blurred = []
    for level in range(levels):
        sigma = max_sigma * (1 - level / (levels - 1))
        blurred.append(gaussian_blur(images, sigma))
    return torch.stack(blurred, dim=1).clamp(0, 1)


def pyramid_blend(pyramid: Tensor, masks: Tensor) -> Tensor:
    """Every pixel from the level that its mask names, linear between levels; 1 is the image, 0 the first.

    The gradient is continuous: within 0.02 levels of a level the slope below goes over into the one above.
    ``pyramid (N, levels, C, H, W)`` and ``masks (N, 1, H, W)`` give ``(N, C, H, W)``.
    """
    last = pyramid.shape[1] - 1
    place = masks * last
    # The first and the last level are no corners; of two levels, none is.
    nearest = place.detach().round().clamp(min(1, last - 1), last - 1)
    index = nearest.long().unsqueeze(1).expand(-1, -1, *pyramid.shape[2:])
    middle = pyramid.gather(1, index)[:, 0]
    up = pyramid.gather(1, index + 1)[:, 0] - middle
    down = up if last == 1 else middle - pyramid.gather(1, index - 1)[:, 0]
    offset = place.detach() - nearest
    rising = (offset / (2 * _CORNER) + 0.5).clamp(0, 1)
    value = middle + torch.where(offset > 0, up, down) * offset
    return value + (down + (up - down) * rising) * (place - place.detach())
