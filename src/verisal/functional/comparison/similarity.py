"""Similarity of maps of the same image, their post-processing, and which maps are defined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.errors import ConfigError, DataError
from verisal.functional.seeding import per_sample
from verisal.results import Score
from verisal.types import SaliencyResult

_FLAT = 1e-6
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


def defined_maps(maps: Tensor) -> Tensor:
    r"""``(B,)`` bool: finite and not constant; a map is constant if :math:`\max - \min \le 10^{-6} \max|S|`.

    All-zero maps are constant. What is not defined here is counted as undefined and never scored.

    Args:
        maps: ``(B, ...)`` saliency maps or attributions.

    >>> defined_maps(torch.tensor([[0.0, 1.0], [2.0, 2.0], [0.0, float("nan")]])).tolist()
    [True, False, False]
    """
    rows = maps.detach().flatten(1)
    if not rows.shape[1]:
        return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    low, high = rows.aminmax(dim=1)
    largest = torch.maximum(low.abs(), high.abs())
    # Not a number compares as false; two infinities differ by one or by none.
    return (high - low > _FLAT * largest) & largest.isfinite()


def average_ranks(rows: Tensor) -> Tensor:
    """Ranks from 1 along the last dimension, ties sharing their average; ``(..., n)`` float64.

    >>> average_ranks(torch.tensor([3.0, 1.0, 3.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    ordered, order = rows.sort(dim=-1)
    place = torch.arange(1, rows.shape[-1] + 1, device=rows.device, dtype=torch.float64).expand(rows.shape)
    rises = ordered[..., 1:] != ordered[..., :-1]
    edge = torch.ones_like(rises[..., :1])
    first = torch.where(torch.cat([edge, rises], dim=-1), place, 0.0).cummax(dim=-1).values
    last = torch.where(torch.cat([rises, edge], dim=-1), place, torch.inf)
    last = last.flip(-1).cummin(dim=-1).values.flip(-1)
    return torch.empty_like(place).scatter_(-1, order, (first + last) / 2)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Rank correlation over all values of each pair of maps, ties sharing their average rank.

    Args:
        a: ``(B, ...)``, e.g. saliency maps ``(B, 1, H, W)`` or attributions ``(B, C, H, W)``.
        b: shaped like ``a``.

    Returns:
        ``(B,)`` float64 in [-1, 1] on the device of the maps; NaN where either map is undefined
        (:func:`defined_maps`).

    Raises:
        DataError: shapes that differ.

    >>> spearman(torch.tensor([[1.0, 2.0, 9.0]]), torch.tensor([[0.1, 0.4, 0.5]])).round(decimals=6).tolist()
    [1.0]
    """
    rows, others, defined = _pairs(a, b)
    return _correlation(average_ranks(rows), average_ranks(others)).where(defined, torch.nan)


def spearman_of_pairs(maps: Sequence[Tensor]) -> Tensor:
    """:func:`spearman` of all pairs of several maps of the same images, each ranked once.

    Args:
        maps: S tensors ``(B, ...)`` of one shape, at least two.

    Returns:
        ``(S (S - 1) / 2, B)`` float64, pairs in the order of ``itertools.combinations``.

    Raises:
        DataError: fewer than two, or shapes that differ.
    """
    shapes = {tuple(part.shape) for part in maps}
    if len(maps) < 2 or len(shapes) > 1 or len(next(iter(shapes))) < 2:
        raise DataError(
            f"maps to compare must be at least two of one shape (B, ...), found {len(maps)} of"
            f" {sorted(shapes)}"
        )
    defined = [defined_maps(part) for part in maps]
    ranks = [average_ranks(part.detach().flatten(1)) for part in maps]
    return torch.stack(
        [
            _correlation(ranks[i], ranks[j]).where(defined[i] & defined[j], torch.nan)
            for i, j in combinations(range(len(maps)), 2)
        ]
    )


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Linear correlation over all values of each pair of maps; otherwise as :func:`spearman`."""
    rows, others, defined = _pairs(a, b)
    return _correlation(rows.double(), others.double()).where(defined, torch.nan)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each pair of maps, both scaled to [0, 1] by their own minimum and maximum.

    Gaussian window of 11 px, sigma 1.5 px, means over the positions where it lies inside the map; at most the
    largest odd size that fits smaller maps.

    Args:
        a: ``(B, C, H, W)``.
        b: shaped like ``a``.

    Returns:
        ``(B,)`` float64 in [-1, 1]; NaN where either map is undefined (:func:`defined_maps`).

    Raises:
        DataError: shapes that differ, or that are not ``(B, C, H, W)``.

    References:
        wang2004ssim
    """
    if a.ndim != 4:
        raise DataError(f"SSIM needs maps (B, C, H, W), found {tuple(a.shape)}; add the missing dimensions")
    rows, others, defined = _pairs(a, b)
    x, y = (_unit_range(part.double()).view(a.shape) for part in (rows, others))
    moments = _smoothed(torch.stack([x, y, x**2, y**2, x * y]))
    mean_a, mean_b, square_a, square_b, product = moments.unbind()
    variances = square_a - mean_a**2 + square_b - mean_b**2
    covariance = product - mean_a * mean_b
    structure = (2 * covariance + _C2) / (variances + _C2)
    brightness = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return (brightness * structure).mean(dim=(1, 2, 3)).where(defined, torch.nan)


def top_k_intersection(a: Tensor, b: Tensor, share: float) -> Tensor:
    r"""Overlap of the k largest values of each pair of maps, :math:`|A \cap B| / |A \cup B|`.

    k is ``share`` of the values, rounded, at least 1; of tied values the first in row-major order count.

    Args:
        a: ``(B, ...)``.
        b: shaped like ``a``.
        share: in (0, 1).

    Returns:
        ``(B,)`` float64 in [0, 1]; NaN where either map is undefined (:func:`defined_maps`).

    Raises:
        ConfigError: a share outside (0, 1).
        DataError: shapes that differ.
    """
    if not 0.0 < share < 1.0:
        raise ConfigError(f"share must lie in (0, 1), found {share}; 10 % is 0.1")
    rows, others, defined = _pairs(a, b)
    count = max(1, round(share * rows.shape[1]))
    hits = [
        torch.zeros_like(part, dtype=torch.bool).scatter_(
            1, part.sort(dim=1, descending=True, stable=True).indices[:, :count], True
        )
        for part in (rows, others)
    ]
    both = (hits[0] & hits[1]).sum(dim=1).double()
    return (both / (2 * count - both)).where(defined, torch.nan)


def map_similarities(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """``spearman``, ``pearson``, ``ssim``, ``top_5``, ``top_10`` and ``top_20`` of two batches of maps.

    Args:
        a: ``(B, C, H, W)``.
        b: shaped like ``a``.

    Returns:
        Each ``(B,)`` float64; NaN where either map is undefined. ``top_k`` is the intersection over union of
        the largest k %.
    """
    tops = {f"top_{percent}": top_k_intersection(a, b, percent / 100) for percent in (5, 10, 20)}
    return {"spearman": spearman(a, b), "pearson": pearson(a, b), "ssim": ssim(a, b), **tops}


def random_maps(like: Tensor, *, image_ids: Sequence[str], seed: int = 0) -> Tensor:
    """Uniform maps in [0, 1) shaped ``like (B, ...)``, drawn by (seed, image id)."""
    shape, device = tuple(like.shape[1:]), like.device

    def draw(rng: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=rng)

    return per_sample(draw, seed=seed, sample_ids=image_ids, stream="random map", device=device)


@dataclass(frozen=True)
class Agreement:
    """Spearman similarities of the maps of several settings, per image; NaN where a map is undefined.

    Attributes:
        pairs: ``(P, B)``, all pairs of settings in the order of ``itertools.combinations``.
        similarity: ``(B,)`` median over the pairs; NaN where one of them is.
        floor: ``(B,)`` mean over the repeated settings; 1 where there are none.
        control: ``(B,)`` mean similarity of the settings to random maps.
    """

    pairs: Tensor
    similarity: Tensor
    floor: Tensor
    control: Tensor

    __repr__ = brief


def map_agreement(
    settings: Sequence[Tensor],
    *,
    image_ids: Sequence[str],
    repeats: Sequence[tuple[Tensor, Tensor]] = (),
    seed: int = 0,
) -> Agreement:
    """Similarity of the maps of several settings on each image, beside the method's own noise.

    Args:
        settings: maps ``(B, 1, H, W)`` of at least two settings, for the same images.
        image_ids: B names, from which the random control is drawn.
        repeats: pairs of maps of one setting with different random masks; none for a deterministic method.
        seed: of the control.

    Raises:
        DataError: fewer than two settings, or maps of different shapes.
    """
    pairs = spearman_of_pairs(settings)
    control = random_maps(settings[0], image_ids=image_ids, seed=seed)
    controls = torch.stack([spearman(maps, control) for maps in settings]).mean(dim=0)
    # The median of an even number of pairs is the mean of the middle two; NaN in any pair is NaN.
    between = pairs.quantile(0.5, dim=0)
    if repeats:
        floor = torch.stack([spearman(a, b) for a, b in repeats]).mean(dim=0)
    else:
        floor = torch.ones_like(between).where(~between.isnan(), torch.nan)
    return Agreement(pairs, between, floor, controls)


def diverges(similarity: Score, floor: Score) -> bool | None:
    """True if the interval of the settings' similarity lies wholly below that of the method's own noise.

    None where one of them is undefined.
    """
    known = not (math.isnan(similarity.high) or math.isnan(floor.low))
    return similarity.high < floor.low if known else None


def _pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both as ``(B, n)``, undefined maps replaced by zeros, and which pairs are defined."""
    if a.shape != b.shape or a.ndim < 2:
        raise DataError(
            f"maps to compare must have one shape (B, ...), found {tuple(a.shape)} and {tuple(b.shape)}"
        )
    defined = defined_maps(a) & defined_maps(b)
    rows, others = (part.detach().flatten(1).where(defined[:, None], 0.0) for part in (a, b))
    return rows, others, defined


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = (part - part.mean(dim=-1, keepdim=True) for part in (a, b))
    a, b = (part / part.norm(dim=-1, keepdim=True) for part in (a, b))
    return (a * b).sum(dim=-1).clamp(-1, 1)


def _unit_range(rows: Tensor) -> Tensor:
    low, high = rows.aminmax(dim=1, keepdim=True)
    return (rows - low) / (high - low)


def _smoothed(images: Tensor) -> Tensor:
    """``(..., H, W)`` under a Gaussian window, where it lies inside the image, as two matrix products."""
    down, across = (_windows(length, images) for length in images.shape[-2:])
    return down @ images @ across.T


def _windows(length: int, like: Tensor) -> Tensor:
    """One window per row, each one value further: ``(length - size + 1, length)``."""
    size = min(_WINDOW, length - 1 + length % 2)
    at = torch.arange(length, device=like.device, dtype=like.dtype)
    offsets = at - at[: length - size + 1, None] - (size - 1) / 2
    rows = (offsets / _SIGMA).square().div(-2).exp().where(offsets.abs() <= size / 2, 0.0)
    return rows / rows.sum(dim=1, keepdim=True)


def attribution_of(result: SaliencyResult) -> Tensor:
    """The signed attribution ``(B, C, H, W)``, or the saliency map where the method has none."""
    return result.saliency if result.attribution is None else result.attribution


def postprocess(attribution: Tensor, *, percentile: float = 95.0) -> Tensor:
    """Absolute value, maximum over channels, winsorised above, scaled linearly to [0, 1].

    Args:
        attribution: ``(B, C, H, W)`` signed attribution or saliency map.
        percentile: in (0, 100]; larger values are cut down to it (linear interpolation between order
            statistics). 100 cuts nothing.

    Returns:
        ``(B, 1, H, W)`` in [0, 1], of the dtype of the attribution. All zeros where the map is constant, or
        becomes so by the cut; NaN where it is not finite: :func:`defined_maps` finds both.

    Raises:
        ConfigError: a percentile outside (0, 100].

    References:
        lu2021decoys
    """
    if not 0.0 < percentile <= 100.0:
        raise ConfigError(f"percentile must lie in (0, 100], found {percentile}; the 95th is 95.0")
    maps = attribution.detach().abs().amax(dim=1, keepdim=True)
    rows = maps.flatten(1)
    ordered = rows.sort(dim=1).values
    place = percentile / 100 * (rows.shape[1] - 1)
    below = int(place)
    above = min(below + 1, rows.shape[1] - 1)
    limit = torch.lerp(ordered[:, below], ordered[:, above], place - below)
    rows = rows.minimum(limit[:, None])
    low, high = rows.aminmax(dim=1, keepdim=True)
    scaled = torch.where(defined_maps(rows)[:, None], (rows - low) / (high - low), 0.0)
    finite = attribution.detach().flatten(1).isfinite().all(dim=1)
    return scaled.where(finite[:, None], torch.nan).view_as(maps)
