r"""95 % intervals of shares: rates, areas under a ROC curve, and their differences, minima and maxima.

The bootstrap has no interval for a rate of 0 or 1, and too short a one near them. A share is taken for a
rate among so many images as would vary as much, and gets that rate's Clopper-Pearson limits, which hold at
least as often as they say. ``scripts/interval_coverage.py`` measures how often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import final

from torch import Tensor

from verisal.results import Score

__all__ = [
    "FEWEST_FOR_PERCENTILES",
    "FEWEST_FOR_TPR95",
    "Share",
    "greatest_share",
    "hit_difference",
    "least_share",
    "plain_rate",
    "rate_limits",
    "share_difference",
    "share_of_resamples",
]

#: Images from which on intervals hold in at least 92 of 100 sets (scripts/interval_coverage.py):
#: those of the bootstrap's percentiles, and that of the FPR at 95 % TPR. All others hold from 5 on.
FEWEST_FOR_PERCENTILES, FEWEST_FOR_TPR95 = 30, 20

_MISS = 0.025
_PSEUDO = 0.5
_NONE = 0.01


@final
@dataclass(frozen=True)
class Share:
    """A number in [0, 1] and its limits; both NaN where there is nothing to take them from.

    Attributes:
        value: the number; NaN where it is undefined.
        images: of how many images a rate would vary as much; NaN for no limits.
    """

    value: float
    images: float

    def limits(self, miss: float = _MISS) -> tuple[float, float]:
        """Lower and upper limit, each of which the truth passes with probability ``miss`` at most."""
        if math.isnan(self.value) or math.isnan(self.images):
            return math.nan, math.nan
        return rate_limits(self.value, self.images, miss=miss)

    def score(self, *, n: int, undefined: int, fewest: int = 0) -> Score:
        """With the limits of 95 %, which are of too few images below ``fewest``."""
        low, high = self.limits()
        return Score(self.value, low, high, n=n, undefined=undefined, few=n < fewest)


def rate_limits(rate: float, images: float, *, miss: float = _MISS) -> tuple[float, float]:
    """Clopper-Pearson limits of a rate among a number of images that need not be whole.

    References:
        clopper1934

    >>> [round(end, 4) for end in rate_limits(0.0, 50)]
    [0.0, 0.0711]
    """
    hits = min(max(rate, 0.0), 1.0) * images
    low = _beta_quantile(hits, images - hits + 1, miss)
    high = 1.0 - _beta_quantile(images - hits, hits + 1, miss)
    # Rounding must not put the value itself outside.
    return min(low, rate), max(high, rate)


def plain_rate(value: float, images: int) -> Share:
    """A rate among so many images; one image alone gives no limits."""
    return Share(value, float(images) if images > 1 else math.nan)


def share_of_resamples(value: float, resampled: Tensor, images: float) -> Share:
    r"""A share whose variance is that of its bootstrap resamples.

    .. math:: n' = \frac{\hat\theta (1 - \hat\theta) + c / n}{s^2 + c / n^2}, \qquad c = \tfrac12

    The terms in c let the variance tend to that of a plain rate where too few images differ to estimate it.

    Args:
        value: the share.
        resampled: ``(S,)`` the same in every resample, NaN where it is undefined; none for no limits.
        images: number n of images; of how many a rate would vary as much, where they do not count alike.
    """
    drawn = resampled[~resampled.isnan()].double()
    if math.isnan(value) or not images > 1 or not len(drawn):
        return Share(value, math.nan)
    spread = float(drawn.var(correction=0))
    return Share(value, (value * (1 - value) + _PSEUDO / images) / (spread + _PSEUDO / images**2))


def least_share(parts: Sequence[Share]) -> tuple[float, float, float]:
    """The least of several shares: value, lower and upper limit, together right in 95 % or more.

    The least lower limit lies below the share that is truly least as often as that one's own does. That
    some upper limit lies below it can happen once per share, so each may miss only its part.
    """
    limits = [(part.limits()[0], part.limits(_MISS / len(parts))[1]) for part in parts]
    # min() of NaN hangs on the order.
    if any(math.isnan(part.value) for part in parts):
        return math.nan, math.nan, math.nan
    least = min(part.value for part in parts)
    if any(math.isnan(low) for low, _ in limits):
        return least, math.nan, math.nan
    return least, min(low for low, _ in limits), min(high for _, high in limits)


def greatest_share(parts: Sequence[Share]) -> tuple[float, float, float]:
    """The greatest of several shares, as :func:`least_share`."""
    least, low, high = least_share([Share(1 - part.value, part.images) for part in parts])
    return least if math.isnan(least) else max(part.value for part in parts), 1 - high, 1 - low


def share_difference(
    first: tuple[float, float, float],
    second: tuple[float, float, float],
    resampled: tuple[Tensor, Tensor],
    *,
    n: int,
    undefined: int,
) -> Score:
    """The difference of two shares of the same images.

    Args:
        first: value, lower and upper limit.
        second: of the other.
        resampled: both in the same resamples, ``(S,)`` each, for their correlation; 0 if either is constant.
        n: number of images.
        undefined: number of images left out.
    """
    known = ~(resampled[0].isnan() | resampled[1].isnan())
    same = first[0] == second[0] and bool(resampled[0][known].equal(resampled[1][known]))
    one, two = (drawn[known].double() - drawn[known].double().mean() for drawn in resampled)
    scale = float(one.norm() * two.norm())
    if scale > 0 and same:
        return Score(0.0, 0.0, 0.0, n=n, undefined=undefined)
    correlation = float(one @ two) / scale if scale > 0 else 0.0
    return _difference(first, second, correlation, n=n, undefined=undefined)


def hit_difference(gained: int, lost: int, images: int, *, undefined: int = 0) -> Score:
    """Difference of two rates on the same images.

    Args:
        gained: images on which only the first hits.
        lost: images on which only the second does.
        images: all images with both.
        undefined: number of images left out.
    """
    if not images:
        return Score(math.nan, math.nan, math.nan, n=0, undefined=undefined)
    parts = [plain_rate(count / images, images) for count in (gained, lost)]
    one, two = (part.value for part in parts)
    # An image that is gained is not lost.
    odds = one * two / ((1 - one) * (1 - two)) if max(one, two) < 1 else 0.0
    first, second = ((part.value, *part.limits()) for part in parts)
    return _difference(first, second, -math.sqrt(odds), n=images, undefined=undefined)


def _difference(
    first: tuple[float, float, float],
    second: tuple[float, float, float],
    correlation: float,
    *,
    n: int,
    undefined: int,
) -> Score:
    r"""From the two estimates' own, lopsided limits.

    .. math:: l = \hat d - \sqrt{(\hat\theta_1 - l_1)^2 + (u_2 - \hat\theta_2)^2
        - 2 r (\hat\theta_1 - l_1)(u_2 - \hat\theta_2)}

    and the upper limit likewise.

    References:
        zou2008mover
    """
    value = first[0] - second[0]

    def reach(one: float, other: float) -> float:
        squared = one * one + other * other - 2 * correlation * one * other
        return math.nan if math.isnan(squared) else math.sqrt(max(squared, 0.0))

    low = value - reach(first[0] - first[1], second[2] - second[0])
    high = value + reach(first[2] - first[0], second[0] - second[1])
    return Score(value, _clamped(low), _clamped(high), n=n, undefined=undefined)


def _clamped(limit: float) -> float:
    return limit if math.isnan(limit) else min(max(limit, -1.0), 1.0)


@lru_cache(maxsize=4096)
def _beta_quantile(a: float, b: float, share: float) -> float:
    """Where the regularised incomplete beta function reaches ``share``: Newton's steps inside a bisection."""
    if a < _NONE:
        return 0.0  # or less than 1e-150
    low, high, at = 0.0, 1.0, a / (a + b)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    for _ in range(100):
        over = _incomplete_beta(a, b, at, scale) - share
        low, high = (low, at) if over > 0 else (at, high)
        slope = math.exp(scale + (a - 1) * math.log(at) + (b - 1) * math.log1p(-at))
        moved = at - over / slope if slope > 0 else low
        if not low < moved < high:
            moved = (low + high) / 2
        if abs(moved - at) <= 1e-12 * at:
            return moved
        at = moved
    return at


def _incomplete_beta(a: float, b: float, at: float, scale: float) -> float:
    front = math.exp(scale + a * math.log(at) + b * math.log1p(-at))
    if at < (a + 1) / (a + b + 2):
        return front * _continued(a, b, at) / a
    return 1 - front * _continued(b, a, 1 - at) / b


def _continued(a: float, b: float, at: float) -> float:
    """Lentz's continued fraction of the incomplete beta function."""
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * at / (a + 1) or tiny)
    found = d
    for m in range(1, 100_000):
        for term in (
            m * (b - m) * at / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * at / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            found *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return found
