"""Whether methods keep their order when the metric's settings change.

Scores of M methods on the same n images are ``(M, n)``, **higher is better**: turn the sign of a score that
is better when low. An image that is undefined (NaN) for any method is left out for all.
"""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor

from verisal.errors import DataError
from verisal.functional.comparison.similarity import average_ranks
from verisal.functional.statistics.detection import bootstrap_weights, percentile_score
from verisal.functional.statistics.intervals import bootstrap_mean
from verisal.results import Score

__all__ = [
    "diagonal_effect",
    "kendall_tau_b",
    "morf_lerf_agreement",
    "rank_correlation",
    "ranking_agreement",
    "ranking_stability",
    "swap_shares",
]

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
    one, two = (
        differences.sign().where(~differences.isnan(), torch.nan)
        for differences in (_pair_differences(part) for part in (a, b))
    )
    squares = one.square().sum(dim=-1) * two.square().sum(dim=-1)
    return (one * two).sum(dim=-1) / squares.sqrt()


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's correlation along the last dimension, ties sharing their rank; as :func:`kendall_tau_b`."""
    bad = a.isnan().any(dim=-1) | b.isnan().any(dim=-1)
    one, two = (average_ranks(part) - (part.shape[-1] + 1) / 2 for part in (a, b))
    squares = one.square().sum(dim=-1) * two.square().sum(dim=-1)
    return ((one * two).sum(dim=-1) / squares.sqrt()).where(~bad, torch.nan)


def ranking_agreement(
    first: Tensor, second: Tensor, *, resamples: int = 2000, seed: int = 0
) -> dict[str, Score]:
    """How alike the rankings of the methods' mean scores are under two settings of a metric.

    Args:
        first: ``(M, n)`` scores of M methods on n images under one setting, higher is better.
        second: the same methods and images under the other setting.
        resamples: bootstrap resamples of images; the ranking is made anew in each.
        seed: of the resampling.

    Returns:
        ``kendall`` (tau-b) and ``spearman``, with intervals; undefined for fewer than four methods.

    Raises:
        DataError: scores of different shapes.
    """
    both = _common(first, second)
    n, undefined = both.shape[2], first.shape[1] - both.shape[2]
    if first.shape[0] < _FEWEST_METHODS or n == 0:
        nothing = Score(math.nan, math.nan, math.nan, n=0, undefined=first.shape[1])
        return {"kendall": nothing, "spearman": nothing}
    weights = bootstrap_weights(n, resamples=resamples, seed=seed).double()
    means = both.mean(dim=2)
    drawn = torch.einsum("smn,rn->srm", both, weights) / n
    found = {}
    for name, correlate in (("kendall", kendall_tau_b), ("spearman", rank_correlation)):
        resampled = correlate(drawn[0], drawn[1])
        found[name] = percentile_score(
            float(correlate(means[0], means[1])), resampled[~resampled.isnan()], n=n, undefined=undefined
        )
    return found


def ranking_stability(scores: Tensor, *, resamples: int = 2000, seed: int = 0) -> Score:
    """How alike the ranking of the methods' mean scores is to that on resampled images: its noise floor.

    Args:
        scores: ``(M, n)`` scores of M methods on n images, higher is better.
        resamples: bootstrap resamples of images, at least 1.
        seed: of the resampling.

    Returns:
        Kendall's tau-b, mean over the resamples with the middle 95 % of them; undefined for fewer than four
        methods.
    """
    kept, _ = _common(scores, scores)
    n, undefined = kept.shape[1], scores.shape[1] - kept.shape[1]
    if scores.shape[0] < _FEWEST_METHODS or n == 0:
        return Score(math.nan, math.nan, math.nan, n=0, undefined=scores.shape[1])
    weights = bootstrap_weights(n, resamples=resamples, seed=seed).double()
    drawn = weights @ kept.T / n
    found = kendall_tau_b(drawn, kept.mean(dim=1).expand_as(drawn))
    found = found[~found.isnan()]
    return percentile_score(float(found.mean()), found, n=n, undefined=undefined)


def morf_lerf_agreement(
    morf: Tensor, lerf: Tensor, *, resamples: int = 2000, seed: int = 0
) -> dict[str, Score]:
    """Agreement of the rankings by MoRF areas (low is better) and by LeRF areas (high is better).

    Args:
        morf: ``(M, n)`` areas as they are.
        lerf: ``(M, n)`` areas as they are.
        resamples: as of :func:`ranking_agreement`.
        seed: as of :func:`ranking_agreement`.
    """
    return ranking_agreement(-morf, lerf, resamples=resamples, seed=seed)


def swap_shares(
    first: Tensor, second: Tensor, *, resamples: int = 2000, seed: int = 0
) -> dict[tuple[int, int], Score]:
    """Share of images on which a pair of methods swaps its order between two settings; a tie swaps nothing.

    Args:
        first: ``(M, n)`` as of :func:`ranking_agreement`.
        second: as of :func:`ranking_agreement`.
        resamples: bootstrap resamples of images.
        seed: of the resampling.

    Returns:
        One share per pair ``(i, j)``, i < j; undefined for fewer than four methods.

    Raises:
        DataError: scores of different shapes.
    """
    _common(first, second)
    one, two = (_pair_differences(part.cpu().double().T).T for part in (first, second))
    swapped = (one * two < 0).double().where(~(one * two).isnan(), torch.nan)
    if len(first) < _FEWEST_METHODS:
        swapped = torch.full_like(swapped, torch.nan)
    pairs = combinations(range(len(first)), 2)
    return {
        pair: bootstrap_mean(row, resamples=resamples, seed=seed)
        for pair, row in zip(pairs, swapped, strict=True)
    }


def diagonal_effect(scores: Tensor, *, resamples: int = 2000, seed: int = 0) -> Score:
    """Mean score where map and metric share a baseline, minus the mean where they do not.

    Args:
        scores: ``(S, S, n)``: baseline of the map, baseline of the metric (same order), image.
        resamples: bootstrap resamples of images.
        seed: of the resampling.

    Raises:
        DataError: not square, or fewer than two baselines.
    """
    if scores.ndim != 3 or scores.shape[0] != scores.shape[1] or scores.shape[0] < 2:
        raise DataError(
            "scores must be (baselines, baselines, images) with at least two baselines,"
            f" found {tuple(scores.shape)}"
        )
    same = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    found = scores.double()
    more = found[same].mean(dim=0) - found[~same].mean(dim=0)
    return bootstrap_mean(more, kind="difference", resamples=resamples, seed=seed)


def _pair_differences(values: Tensor) -> Tensor:
    """``(..., M)`` to ``(..., M (M - 1) / 2)``: differences of all pairs i < j, in order."""
    i, j = torch.triu_indices(values.shape[-1], values.shape[-1], 1, device=values.device)
    return values.double()[..., i] - values.double()[..., j]


def _common(first: Tensor, second: Tensor) -> Tensor:
    """``(2, M, n')`` float64 on the CPU: images that are defined for every method under both settings."""
    if first.ndim != 2 or first.shape != second.shape:
        raise DataError(
            "scores must be (methods, images), the same under both settings,"
            f" found {tuple(first.shape)} and {tuple(second.shape)}"
        )
    both = torch.stack([first, second]).detach().double().cpu()
    return both[..., ~both.isnan().any(dim=0).any(dim=0)]
