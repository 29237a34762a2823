r"""Extremal perturbation: the smooth mask of a given area that keeps, or removes, most of the query's logit.

.. math:: \max_m \; f_c(\mathrm{pert}(x, m)) - \lambda \, \mathrm{mean} (\mathrm{vecsort}(m) - r_a)^2
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, final, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal._checks import as_tuples
from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, bound
from verisal.functional.filters import gaussian_blur
from verisal.functional.outputs import ask
from verisal.saliency._base import Saliency, explaining, query_score
from verisal.saliency.perturbation.meaningful import Replacement, check_grid, replacement
from verisal.types import AnyClassifier, SaliencyResult, check_range

_COLDNESS = 20.0
"""Inverse temperature of the soft-max pooling."""
_RANK = 8
"""Exponentials that stand for every weight of the pooling, see :func:`smooth_max_weights`."""
_TIE = 1e-2
"""Pixels this near the area's threshold share what is left of the area; twice as far off none do."""
_CORNER = 0.02
"""Levels on both sides of one of a pyramid over which the slope below it goes over into the one above."""


Variant = Literal["preserve", "delete", "dual"]
_MOMENTUM = 0.9


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


@final
@dataclass(frozen=True, kw_only=True)
class ExtremalPerturbation(Saliency):
    """Per-image optimisation of masks of fixed areas; all images and areas are learned in one batch.

    Lengths are for images of 224 px and scale with ``min(H, W) / 224``; :meth:`sizes` gives those used.

    Args:
        areas: shares of the image's pixels, rising, each in (0, 1].
        variant: ``preserve`` raises the logit of the image that shows only the mask, ``delete`` lowers
            that of the image without it, ``dual`` does both at once.
        steps: of gradient ascent with momentum and dampening 0.9.
        learning_rate: of it.
        area_weight: lambda of the first step.
        area_growth: factor on lambda per step.
        grid_step: pixels between the cells of the mask.
        sigma: reach of a cell, in pixels.
        baseline: what replaces removed pixels; None for a pyramid of blurs of the image, named
            ``blur_pyramid``, in which a mask value picks how much is blurred away.
        pyramid_levels: levels of the pyramid, the image itself included, at least 2.
        pyramid_sigma: largest blur of the pyramid, in pixels.
        chunk_size: masks (images times areas) learned at once; bounds memory, never changes the result beyond
            float rounding.

    Raises:
        ConfigError: values out of range, areas that do not rise.

    References:
        fong2019extremal

    Differs from:
        - The soft-max pooling of the mask is a convolution on the grid of cells, within 1e-4 of the formula.
        - Of the sorted mask only the threshold is found; pixels near it, within 0.01 and fading out to 0.02,
          share the rest of the area, where a sort orders equal pixels by chance. The slope between levels of
          the pyramid changes over 0.04 levels. Both keep the gradient continuous, and rounding small.
        - The area is a share of the image. As published, it is counted on a plane that reaches sigma beyond,
          so that the border is no cheaper than the inside; masks of areas near 1 fade towards the border.
        - Cells are centred on the image, where the published grid starts at its first pixel.
        - Blurs reflect the border and act before the classifier normalises.
        - The map of several areas is the mean of their masks, a constant factor from the sum.
    """

    areas: tuple[float, ...] = (0.1,)
    variant: Variant = "preserve"
    steps: int = 800
    learning_rate: float = 0.01
    area_weight: float = 300.0
    area_growth: float = 1.0035
    grid_step: int = 7
    sigma: float = 21.0
    baseline: Baseline | None = None
    pyramid_levels: int = 8
    pyramid_sigma: float = 20.0
    chunk_size: int = 16

    def __post_init__(self) -> None:
        as_tuples(self)
        rising = all(low < high for low, high in zip(self.areas, self.areas[1:], strict=False))
        if not self.areas or not rising or not 0 < self.areas[0] <= self.areas[-1] <= 1:
            raise ConfigError(
                f"areas must be one or more different shares in (0, 1], rising; found {self.areas}"
            )
        if self.variant not in get_args(Variant):
            raise ConfigError(f"variant must be one of {get_args(Variant)}, found {self.variant!r}")
        check_range(1, steps=self.steps, chunk_size=self.chunk_size, grid_step=self.grid_step)
        check_range(2, pyramid_levels=self.pyramid_levels)
        check_range(
            0, above=True, learning_rate=self.learning_rate, area_growth=self.area_growth, sigma=self.sigma
        )
        check_range(0, area_weight=self.area_weight, pyramid_sigma=self.pyramid_sigma)

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """Mean of the masks of all areas, in [0, 1], in ``saliency`` and ``raw``."""
        masks = self.masks(classifier, images, query_class)
        saliency = masks.mean(dim=1, keepdim=True)
        passes = self.steps * len(self.areas) * (2 if self.variant == "dual" else 1)
        baseline = "blur_pyramid" if self.baseline is None else bound(self.baseline, classifier).name
        return SaliencyResult(saliency, saliency, n_forward=passes, n_backward=passes, baseline=baseline)

    def masks(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Tensor:
        """One mask per image and area, ``(B, A, H, W)`` in [0, 1]; 1 is the evidence.

        Raises:
            ConfigError: a query class that does not fit, an image too small for the grid, a baseline that
                lacks something.
        """
        with explaining(classifier, images, query_class) as (pixels, query):
            height, width = pixels.shape[-2:]
            sizes = self.sizes(height, width)
            weights = smooth_max_weights(int(sizes["grid_step"]), sizes["sigma"]).to(pixels.device)
            baseline = None if self.baseline is None else bound(self.baseline, classifier)
            # Area by area, so that masks of one area lie together.
            rows = torch.arange(len(self.areas) * len(pixels), device=pixels.device)
            # Without it, a cell at the border would cost less area than one inside, and keep it.
            margin = math.ceil(sizes["sigma"])
            parts = []
            for chunk in torch.split(rows, self.chunk_size):
                shown, asked = pixels[chunk % len(pixels)], query[chunk % len(pixels)]
                areas = [self.areas[row] for row in (chunk // len(pixels)).tolist()]
                replace = self._replacement(baseline, shown, asked, sizes["pyramid_sigma"])
                reward = _Reward(classifier, asked, replace, self.variant)
                parts.append(self._optimise(reward, areas, weights, (height, width), margin))
        learned = torch.cat(parts).view(len(self.areas), len(images), height, width)
        # Averages of values in [0, 1], up to rounding.
        return learned.transpose(0, 1).clamp(0, 1).contiguous()

    def sizes(self, height: int, width: int) -> dict[str, float]:
        """``grid_step``, ``sigma`` and ``pyramid_sigma`` in pixels of an image of this size.

        Raises:
            ConfigError: the mask would have fewer than two cells along an axis.
        """
        scale = min(height, width) / 224
        cell = max(1, round(self.grid_step * scale))
        check_grid(cell, height, width, f"grid_step={self.grid_step}")
        return {"grid_step": cell, "sigma": self.sigma * scale, "pyramid_sigma": self.pyramid_sigma * scale}

    def _replacement(
        self, baseline: Baseline | None, images: Tensor, query: Tensor, max_sigma: float
    ) -> Replacement:
        if baseline is not None:
            return replacement(baseline, images, query)
        pyramid = blur_pyramid(images, levels=self.pyramid_levels, max_sigma=max_sigma)
        return lambda masks: pyramid_blend(pyramid, masks)

    def _optimise(
        self, reward: _Reward, areas: Sequence[float], weights: Tensor, size: tuple[int, int], margin: int
    ) -> Tensor:
        """Masks ``(N, 1, H, W)``, one for each of ``areas``, equal ones side by side."""
        step = math.isqrt(len(weights) // 2)
        counts = [max(1, math.ceil(area * size[0] * size[1] - 1e-6)) for area in areas]
        runs = [(count, len(list(run))) for count, run in groupby(counts)]
        cells = weights.new_ones(len(areas), 1, math.ceil(size[0] / step), math.ceil(size[1] / step))
        velocity: Tensor | None = None
        for index in range(self.steps):
            cells.requires_grad_()
            plane = smooth_max(cells, weights, step=step, size=size, margin=margin)
            parts = torch.split(plane, [length for _, length in runs])
            deviation = torch.cat(
                [area_deviation(part, count) for part, (count, _) in zip(parts, runs, strict=True)]
            )
            penalty = self.area_weight * self.area_growth**index * deviation
            masks = plane[:, :, margin : margin + size[0], margin : margin + size[1]]
            objective = reward(masks, flipped=index % 2 == 0) - penalty
            (gradient,) = torch.autograd.grad(objective.sum(), cells)
            velocity = gradient if velocity is None else _MOMENTUM * velocity + (1 - _MOMENTUM) * gradient
            cells = (cells.detach() + self.learning_rate * velocity).clamp(0, 1)
        return smooth_max(cells, weights, step=step, size=size)


@dataclass(frozen=True)
class _Reward:
    """Reward of a mask: the query's logit of what it keeps, or minus that of what it leaves."""

    classifier: AnyClassifier
    query: Tensor
    replace: Replacement
    variant: Variant

    def __call__(self, masks: Tensor, *, flipped: bool) -> Tensor:
        """``(N,)`` for ``masks (N, 1, H, W)``; ``flipped`` mirrors what the classifier sees."""
        match self.variant:
            case "preserve":
                return self._logit(self.replace(masks), self.query, flipped)
            case "delete":
                return -self._logit(self.replace(1 - masks), self.query, flipped)
            case "dual":
                both = torch.cat([self.replace(masks), self.replace(1 - masks)])
                kept, left = self._logit(both, self.query.repeat(2), flipped).chunk(2)
                return kept - left

    def _logit(self, images: Tensor, query: Tensor, flipped: bool) -> Tensor:
        return query_score(ask(self.classifier, images.flip(3) if flipped else images), query, "logit")
