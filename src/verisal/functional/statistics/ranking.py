"""Agreement of the orders in which a metric puts methods under several settings.

Scores of M methods on the same n images are ``(M, n)``, **higher is better**: turn the sign of a score that
is better when low. An image that is undefined (NaN) for any method is left out for all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations

import torch
from torch import Tensor

from verisal.errors import DataError
from verisal.functional.comparison.similarity import average_ranks
from verisal.functional.statistics.resampled import Bootstrap, Resampled
from verisal.results import Score

_FEWEST_METHODS = 4


def kendall_tau_b(a: Tensor, b: Tensor) -> Tensor:
    r"""Kendall's :math:`\tau_b` along the last dimension, with the correction for ties.

    .. math:: \tau_b = \frac{n_c - n_d}{\sqrt{(n_0 - n_a)(n_0 - n_b)}}

    Args:
        a: ``(..., M)``.
        b: ``(..., M)``.

    Returns:
        ``(...)`` float64 in [-1, 1]; NaN where all values of either are equal or any is NaN.

    >>> kendall_tau_b(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0])).item()
    0.3333333333333333
    """
    # The sign of NaN is 0.
    first, second = (
        differences.sign().where(~differences.isnan(), torch.nan)
        for differences in (_pair_differences(part) for part in (a, b))
    )
    return _cosine(first, second)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation along the last dimension, ties sharing their rank; as :func:`kendall_tau_b`."""
    bad = a.isnan().any(dim=-1) | b.isnan().any(dim=-1)
    first, second = (average_ranks(part) - (part.shape[-1] + 1) / 2 for part in (a, b))
    return _cosine(first, second).where(~bad, torch.nan)


def ranking_agreement(first: Tensor, second: Tensor, bootstrap: Bootstrap) -> dict[str, Score]:
    """Agreement of the rankings of the methods' mean scores under two settings of a metric.

    Args:
        first: ``(M, n)`` scores of M methods on n images under one setting, higher is better.
        second: the same methods and images under the other setting.
        bootstrap: of the images; the ranking is made anew in each resample.

    Returns:
        ``kendall`` (tau-b) and ``spearman``, with intervals; undefined for fewer than four methods.

    Raises:
        DataError: scores of different shapes.
    """
    defined = _defined(first, second)
    both = torch.stack([first, second]).detach().double().cpu()[..., defined]

    def agreement(weights: Tensor, *, correlate: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        means = torch.einsum("smn,rn->srm", both, weights.double()) / weights.shape[1]
        return correlate(means[0], means[1])

    kinds = {"kendall": kendall_tau_b, "spearman": rank_correlation}
    if len(first) < _FEWEST_METHODS:
        return dict.fromkeys(kinds, _undefined(first))
    return {
        name: bootstrap.of(partial(agreement, correlate=correlate), defined).score()
        for name, correlate in kinds.items()
    }


def ranking_stability(scores: Tensor, bootstrap: Bootstrap) -> Score:
    """Agreement of the ranking of the methods' mean scores with that on resampled images: its noise floor.

    Args:
        scores: ``(M, n)`` scores of M methods on n images, higher is better.
        bootstrap: of the images, with at least one resample.

    Returns:
        Kendall's tau-b, mean over the resamples with the middle 95 % of them; undefined for fewer than four
        methods.
    """
    defined = _defined(scores, scores)
    kept = scores.detach().double().cpu()[:, defined]
    if len(scores) < _FEWEST_METHODS or not kept.shape[1]:
        return _undefined(scores)
    means = kept.mean(dim=1)

    def agreement(weights: Tensor) -> Tensor:
        drawn = weights.double() @ kept.T / weights.shape[1]
        return kendall_tau_b(drawn, means.expand_as(drawn))

    resampled = bootstrap.of(agreement, defined)
    return replace(resampled, value=float(resampled.draws.nanmean())).score()


def swap_shares(first: Tensor, second: Tensor, bootstrap: Bootstrap) -> dict[tuple[int, int], Score]:
    """Share of images on which a pair of methods swaps its order between two settings; a tie swaps nothing.

    Args:
        first: ``(M, n)`` as of :func:`ranking_agreement`.
        second: as of :func:`ranking_agreement`.
        bootstrap: of the images.

    Returns:
        One share per pair ``(i, j)``, i < j; undefined for fewer than four methods.

    Raises:
        DataError: scores of different shapes.
    """
    _defined(first, second)
    differences = [_pair_differences(part.cpu().double().T).T for part in (first, second)]
    product = differences[0] * differences[1]
    swapped = (product < 0).double().where(~product.isnan(), torch.nan)
    if len(first) < _FEWEST_METHODS:
        swapped = torch.full_like(swapped, torch.nan)
    pairs = combinations(range(len(first)), 2)
    return {pair: bootstrap.mean(row).score() for pair, row in zip(pairs, swapped, strict=True)}


def diagonal_effect(scores: Tensor, bootstrap: Bootstrap) -> Score:
    """Mean score where map and metric share a baseline, minus the mean where they do not.

    Args:
        scores: ``(S, S, n)``: baseline of the map, baseline of the metric (same order), image.
        bootstrap: of the images.

    Raises:
        DataError: not square, or fewer than two baselines.
    """
    if scores.ndim != 3 or scores.shape[0] != scores.shape[1] or scores.shape[0] < 2:
        raise DataError(
            "scores must be (baselines, baselines, images) with at least two baselines,"
            f" found {tuple(scores.shape)}"
        )
    same = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    scores = scores.double()
    more = scores[same].mean(dim=0) - scores[~same].mean(dim=0)
    return bootstrap.mean(more, kind="difference").score()


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    squares = first.square().sum(dim=-1) * second.square().sum(dim=-1)
    return (first * second).sum(dim=-1) / squares.sqrt()


def _pair_differences(values: Tensor) -> Tensor:
    """``(..., M)`` to ``(..., M (M - 1) / 2)``: differences of all pairs i < j, in order."""
    i, j = torch.triu_indices(values.shape[-1], values.shape[-1], 1, device=values.device)
    return values.double()[..., i] - values.double()[..., j]


def _defined(first: Tensor, second: Tensor) -> Tensor:
    """``(n,)`` bool on the CPU: images that are defined for every method under both settings."""
    if first.ndim != 2 or first.shape != second.shape:
        raise DataError(
            "scores must be (methods, images), the same under both settings,"
            f" found {tuple(first.shape)} and {tuple(second.shape)}"
        )
    return ~(first.isnan() | second.isnan()).any(dim=0).cpu()


def _undefined(scores: Tensor) -> Score:
    return Resampled(math.nan, undefined=scores.shape[1]).score()
