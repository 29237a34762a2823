r"""Detection scores on plain tensors: thresholds, AUROC and their 95 % intervals over images.

Convention: a higher detector score means more adversarial, positives are adversarial images, and an alarm is
a score strictly above the threshold. A NaN score is undefined: it is left out and counted, never read as 0.
An infinite score is an ordinary extreme value, because only the order of scores matters here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verisal.errors import ConfigError, DataError, NumericError
from verisal.functional.statistics.shares import (
    FEWEST_FOR_PERCENTILES,
    FEWEST_FOR_TPR95,
    plain_rate,
    share_difference,
    share_of_resamples,
)
from verisal.results import Score

__all__ = [
    "auroc",
    "bootstrap_auroc",
    "bootstrap_difference",
    "bootstrap_fpr_at_tpr",
    "bootstrap_rate",
    "bootstrap_weights",
    "fpr_at_tpr95",
    "negatives_needed",
    "pair_by_image",
    "percentile_score",
    "rate_above",
    "resampled_auroc",
    "resampled_rate",
    "roc_curve",
    "threshold_at_fpr",
    "weighted_auroc",
    "weighted_fpr_at_tpr",
    "weighted_rate",
]


def auroc(positive: Tensor, negative: Tensor) -> float:
    r"""Probability that a positive scores above a negative, ties counting half.

    .. math:: A = \frac{1}{PN} \sum_{i,j} [p_i > q_j] + \tfrac12 [p_i = q_j]

    A value below 0.5 is returned as it is. Scores that are all equal give 0.5.

    Args:
        positive: ``(P,)`` scores of adversarial images; NaN is left out.
        negative: ``(N,)`` scores of clean images; NaN is left out.

    Returns:
        The area, computed in float64; NaN where one class has no score.

    Raises:
        DataError: scores that are not one-dimensional.
        NumericError: only two distinct values among more than two scores: those are decisions, not scores.

    >>> auroc(torch.tensor([0.3, 0.9]), torch.tensor([0.1, 0.3]))
    0.875
    """
    positive, negative = _scored(positive), _scored(negative)
    if not len(positive) or not len(negative):
        return math.nan
    _check_continuous(positive, negative)
    weights = torch.ones(1, len(positive), dtype=torch.float32)
    return float(_weighted_auroc(positive, negative, weights, torch.ones(1, len(negative))))


def roc_curve(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """ROC points from (0, 0) to (1, 1), one per distinct score.

    Args:
        positive: ``(P,)`` scores; NaN is left out.
        negative: ``(N,)`` scores; NaN is left out.

    Returns:
        ``fpr`` and ``tpr``, both ``(T + 1,)`` float64 and rising, T distinct scores. The trapezoid under them
        is :func:`auroc`. Both empty where one class has no score.

    Raises:
        DataError: scores that are not one-dimensional.
    """
    positive, negative = _scored(positive), _scored(negative)
    if not len(positive) or not len(negative):
        return torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.float64)
    levels = _distinct(torch.cat([positive, negative]))
    rates = []
    for scores in (negative, positive):
        below = torch.searchsorted(scores.sort().values, levels)
        at_or_above = (len(scores) - below).flip(0)
        start = at_or_above.new_zeros(1)
        rates.append(torch.cat([start, at_or_above]).double() / len(scores))
    return rates[0], rates[1]


def negatives_needed(fpr: float) -> int:
    """Validation negatives that a threshold for this false-positive rate asks for: ten false alarms.

    Raises:
        ConfigError: a rate outside (0, 1).

    >>> negatives_needed(0.05), negatives_needed(0.01)
    (200, 1000)
    """
    if not 0.0 < fpr < 1.0:
        raise ConfigError(f"false-positive rate must lie in (0, 1), found {fpr}; 5 % is 0.05")
    return math.ceil(10.0 / fpr - 1e-9)


def threshold_at_fpr(negative_scores: Tensor, fpr: float) -> float | None:
    """Smallest threshold such that the share of negatives strictly above it is at most ``fpr``.

    Args:
        negative_scores: ``(N,)`` scores of held-out clean images, never of the images reported on; NaN is
            left out.
        fpr: allowed share of false alarms, in (0, 1).

    Returns:
        The threshold, itself one of the scores; None (not supported) where fewer than
        :func:`negatives_needed` scores are there to estimate it.

    Raises:
        ConfigError: a rate outside (0, 1).
        DataError: scores that are not one-dimensional.
    """
    needed = negatives_needed(fpr)
    scores = _scored(negative_scores)
    if len(scores) < needed:
        return None
    allowed = math.floor(fpr * len(scores) + 1e-9)
    return float(scores.sort(descending=True).values[allowed])


def rate_above(scores: Tensor, threshold: float) -> float:
    """Share of scores ``(N,)`` strictly above the threshold, without NaN scores.

    NaN where none is left, or where the threshold is not a number: nothing is above it or below.
    """
    scores = _scored(scores)
    return math.nan if math.isnan(threshold) else float((scores > threshold).double().mean())


def fpr_at_tpr95(positive: Tensor, negative: Tensor) -> float:
    """Smallest false-positive rate at which at least 95 % of the positives raise an alarm.

    Args:
        positive: ``(P,)`` scores; NaN is left out.
        negative: ``(N,)`` scores; NaN is left out.

    Returns:
        The rate; NaN where one class has no score.
    """
    positive, negative = _scored(positive), _scored(negative)
    if not len(positive) or not len(negative):
        return math.nan
    needed = _at_least(0.95 * len(positive))
    level = positive.sort(descending=True).values[needed - 1]
    return float((negative >= level).double().mean())


def pair_by_image(positive_ids: Tensor, negative_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of the images that occur on both sides.

    Args:
        positive_ids: ``(P,)`` int64, each id once.
        negative_ids: ``(N,)`` int64, each id once.

    Returns:
        Two ``(n,)`` int64 index tensors, ids rising: ``positive_ids[first] == negative_ids[second]``.

    Raises:
        DataError: an id that occurs twice on one side.
    """
    for ids in (positive_ids, negative_ids):
        if len(_distinct(ids)) != len(ids):
            raise DataError(
                "an image id occurs twice among the scores of one group; drop the copies before pairing"
            )
    first, second = positive_ids.argsort(), negative_ids.argsort()
    first = first[torch.isin(positive_ids[first], negative_ids)]
    second = second[torch.isin(negative_ids[second], positive_ids)]
    return first, second


def bootstrap_weights(images: int, *, resamples: int = 2000, seed: int = 0) -> Tensor:
    """How often each image occurs in each bootstrap resample.

    The same arguments always give the same weights, so that scores of several detectors on the same images
    are compared within the same resamples.

    Args:
        images: number of images n, at least 1.
        resamples: number of resamples R.
        seed: of the draw.

    Returns:
        ``(R, n)`` float32 whole numbers, every row summing to n, on the CPU. Needs 4 R n bytes.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(images, (resamples, images), generator=generator)
    return torch.zeros(resamples, images).scatter_add_(1, drawn, torch.ones(1).expand(resamples, images))


def weighted_auroc(positive: Tensor, negative: Tensor, weights: Tensor) -> Tensor:
    """AUROC of every resample; an image takes its positive and its negative along.

    Every sum is one of halves of whole numbers, hence exact: the result does not depend on thread counts.

    Args:
        positive: ``(n,)`` scores without NaN.
        negative: ``(n,)`` scores without NaN, of the same images in the same order.
        weights: ``(R, n)`` from :func:`bootstrap_weights`.

    Returns:
        ``(R,)`` float64.
    """
    return _weighted_auroc(positive, negative, weights, weights)


def weighted_fpr_at_tpr(positive: Tensor, negative: Tensor, weights: Tensor, *, tpr: float = 0.95) -> Tensor:
    """False-positive rate at ``tpr`` of every resample; arguments and result as in :func:`weighted_auroc`."""
    positive, negative = positive.double().cpu().contiguous(), negative.double().cpu().contiguous()
    total = positive.shape[0]
    order = positive.argsort(descending=True)
    needed = float(_at_least(tpr * total))
    reached = (weights[:, order].cumsum(dim=1) >= needed).to(torch.uint8).argmax(dim=1)
    levels = positive[order]
    ascending = negative.argsort()
    below = _mass_below(weights, ascending)
    position = torch.searchsorted(negative[ascending], levels)[reached]
    return (total - below.gather(1, position[:, None]).squeeze(1).double()) / total


def weighted_rate(events: Tensor, weights: Tensor) -> Tensor:
    """Share of images with an event in every resample.

    Args:
        events: ``(n,)`` bool.
        weights: ``(R, n)`` from :func:`bootstrap_weights`.

    Returns:
        ``(R,)`` float64.
    """
    return (weights @ events.to(weights)).double() / weights.shape[1]


def resampled_auroc(positive: Tensor, negative: Tensor, weights: Tensor) -> Tensor:
    """As :func:`weighted_auroc`, for images that are only a part of those that are resampled.

    Args:
        positive: ``(n,)`` scores without NaN.
        negative: ``(n,)`` scores of the same images in the same order.
        weights: ``(R, n)``, columns of :func:`bootstrap_weights` for these images; rows need not sum to n.

    Returns:
        ``(R,)`` float64; NaN where a resample holds none of the images.
    """
    total = weights.double().sum(dim=1)
    return _doubled_wins(positive, negative, weights, weights) / (2.0 * total.square())


def resampled_rate(events: Tensor, weights: Tensor) -> Tensor:
    """As :func:`weighted_rate`, for images that are only a part of those that are resampled."""
    return (weights @ events.to(weights)).double() / weights.double().sum(dim=1)


def percentile_score(value: float, resampled: Tensor, *, n: int, undefined: int) -> Score:
    """A score with the 2.5 and 97.5 percentiles of its resampled values.

    No interval (NaN) is given where nothing was resampled or only one image counted. Below 30 images it holds
    the truth in fewer than 92 of 100 sets, and is said to be of too few.
    """
    few = len(resampled) > 0 and n < FEWEST_FOR_PERCENTILES
    if n < 2 or not len(resampled):
        return Score(value=value, low=math.nan, high=math.nan, n=n, undefined=undefined, few=few)
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(resampled, ends).tolist()
    return Score(value=value, low=low, high=high, n=n, undefined=undefined, few=few)


def bootstrap_auroc(positive: Tensor, negative: Tensor, *, resamples: int = 2000, seed: int = 0) -> Score:
    """AUROC with its interval over images, positives and negatives paired by image.

    Args:
        positive: ``(n,)`` scores of attacked images.
        negative: ``(n,)`` scores of the same images unattacked, in the same order (:func:`pair_by_image`).
        resamples: bootstrap resamples; 0 for no interval.
        seed: of the resampling.

    Returns:
        The score over the images with both scores defined; the others are counted as undefined. Value NaN
        and n 0 where there is none.

    Raises:
        DataError: the two sides differ in length, or are not one-dimensional.
        NumericError: only two distinct score values.
    """
    defined = _defined(positive, negative)
    positive, negative = positive[defined], negative[defined]
    n, undefined = len(positive), int((~defined).sum())
    value = auroc(positive, negative)
    if n == 0:
        return Score(math.nan, math.nan, math.nan, n=0, undefined=undefined)
    resampled = weighted_auroc(positive, negative, bootstrap_weights(n, resamples=resamples, seed=seed))
    return share_of_resamples(value, resampled, n).score(n=n, undefined=undefined)


def bootstrap_fpr_at_tpr(
    positive: Tensor, negative: Tensor, *, resamples: int = 2000, seed: int = 0
) -> Score:
    """:func:`fpr_at_tpr95` with its interval; arguments, result and errors as in :func:`bootstrap_auroc`."""
    defined = _defined(positive, negative)
    positive, negative = positive[defined], negative[defined]
    n, undefined = len(positive), int((~defined).sum())
    if n == 0:
        return Score(math.nan, math.nan, math.nan, n=0, undefined=undefined)
    weights = bootstrap_weights(n, resamples=resamples, seed=seed)
    resampled = weighted_fpr_at_tpr(positive, negative, weights)
    share = share_of_resamples(fpr_at_tpr95(positive, negative), resampled, n)
    return share.score(n=n, undefined=undefined, fewest=FEWEST_FOR_TPR95)


def bootstrap_rate(scores: Tensor, threshold: float, *, resamples: int = 2000) -> Score:
    """Share of scores strictly above a fixed threshold, with a rate's exact limits over images.

    The threshold is taken as given: the interval does not hold its uncertainty.

    Args:
        scores: ``(n,)``, one per image; NaN is undefined.
        threshold: from held-out negatives; NaN leaves all images undefined.
        resamples: 0 for no interval.
    """
    kept = _scored(scores)
    value = rate_above(kept, threshold)
    n = 0 if math.isnan(threshold) else len(kept)
    undefined = len(scores) - n
    return plain_rate(value, n if resamples else 0).score(n=n, undefined=undefined)


def bootstrap_difference(
    first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], *, resamples: int = 2000, seed: int = 0
) -> Score:
    """AUROC of the first detector minus that of the second on the same images, with its interval.

    Args:
        first: positive and negative scores, ``(n,)`` each, as in :func:`bootstrap_auroc`.
        second: the other detector's, of the same images in the same order.
        resamples: bootstrap resamples; 0 for no interval.
        seed: of the resampling.

    Returns:
        The difference over the images that both detectors scored; the others are counted as undefined.

    Raises:
        DataError: lengths that differ.
        NumericError: only two distinct score values in one detector.
    """
    defined = _defined(*first, *second)
    n, undefined = int(defined.sum()), int((~defined).sum())
    if n == 0:
        return Score(math.nan, math.nan, math.nan, n=0, undefined=undefined)
    weights = bootstrap_weights(n, resamples=resamples, seed=seed)
    ends, resampled = [], []
    for positive, negative in (first, second):
        value = auroc(positive[defined], negative[defined])
        drawn = weighted_auroc(positive[defined], negative[defined], weights)
        ends.append((value, *share_of_resamples(value, drawn, n).limits()))
        resampled.append(drawn)
    return share_difference(ends[0], ends[1], (resampled[0], resampled[1]), n=n, undefined=undefined)


def _scored(scores: Tensor) -> Tensor:
    if scores.ndim != 1:
        raise DataError(f"detector scores must be one number per image, (N,), found {tuple(scores.shape)}")
    scores = scores.detach().double().cpu()
    return scores[~scores.isnan()]


def _defined(*sides: Tensor) -> Tensor:
    shapes = [tuple(side.shape) for side in sides]
    if len(set(shapes)) != 1 or sides[0].ndim != 1:
        raise DataError(
            f"paired scores must be (n,) of the same images in the same order, found {shapes};"
            " pair them by image id first"
        )
    return ~torch.stack([side.isnan() for side in sides]).any(dim=0)


def _distinct(values: Tensor) -> Tensor:
    ascending = values.sort().values
    return ascending[
        torch.cat([ascending.new_ones(1).bool(), ascending[1:] != ascending[:-1]])[: len(values)]
    ]


def _check_continuous(positive: Tensor, negative: Tensor) -> None:
    levels = _distinct(torch.cat([positive, negative]))
    if len(levels) == 2 and len(positive) + len(negative) > 2:
        raise NumericError(
            f"AUROC needs continuous scores, found only the two values {float(levels[0]):.6g} and"
            f" {float(levels[1]):.6g} among {len(positive) + len(negative)}: pass the detector's logits,"
            " not its decisions"
        )


def _at_least(count: float) -> int:
    return max(1, math.ceil(count - 1e-9))


def _mass_below(weights: Tensor, ascending: Tensor) -> Tensor:
    """``(R, n + 1)``: weight of the k lowest scores, k = 0..n. Exact in float32 below 2^24 images."""
    return torch.nn.functional.pad(weights[:, ascending].cumsum(dim=1), (1, 0))


def _weighted_auroc(
    positive: Tensor, negative: Tensor, positive_weights: Tensor, negative_weights: Tensor
) -> Tensor:
    doubled = _doubled_wins(positive, negative, positive_weights, negative_weights)
    return doubled / (2.0 * len(positive) * len(negative))


def _doubled_wins(
    positive: Tensor, negative: Tensor, positive_weights: Tensor, negative_weights: Tensor
) -> Tensor:
    """``(R,)`` twice the weight of pairs in which the positive is above, plus that of ties: whole numbers."""
    positive, negative = positive.double().cpu().contiguous(), negative.double().cpu().contiguous()
    ascending = negative.argsort()
    levels = negative[ascending]
    below = _mass_below(negative_weights, ascending)
    strictly = below[:, torch.searchsorted(levels, positive)]
    with_ties = below[:, torch.searchsorted(levels, positive, right=True)]
    return (positive_weights * (strictly + with_ties)).sum(dim=1, dtype=torch.float64)
