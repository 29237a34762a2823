r"""Limits of rates, and of the difference of two numbers in [0, 1].

Written out because scipy is no dependency; ``tests/reference`` compares them with scipy's.
"""

from __future__ import annotations

import math
from functools import lru_cache

#: Each limit of a 95 % interval is passed by the truth with this probability at most.
MISS = 0.025

_NONE = 0.01
_PSEUDO = 0.5


def images_worth(share: float, variance: float, images: float) -> float:
    r"""Number :math:`n' = (\hat\theta (1 - \hat\theta) + c / n) / (s^2 + c / n^2)` with :math:`c = \tfrac12`.

    A rate among so many images would vary as much as a share with the variance :math:`s^2`. The terms in c
    let the variance tend to that of a plain rate where too few images differ to estimate it.
    """
    return (share * (1 - share) + _PSEUDO / images) / (variance + _PSEUDO / images**2)


def rate_limits(rate: float, images: float, *, miss: float = MISS) -> tuple[float, float]:
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


def difference_limits(
    first: tuple[float, float, float], second: tuple[float, float, float], *, correlation: float
) -> tuple[float, float]:
    r"""Limits of a difference from the two estimates' own, lopsided limits, cut to [-1, 1].

    .. math:: l = \hat d - \sqrt{(\hat\theta_1 - l_1)^2 + (u_2 - \hat\theta_2)^2
        - 2 r (\hat\theta_1 - l_1)(u_2 - \hat\theta_2)}

    and the upper limit likewise.

    Args:
        first: value, lower and upper limit.
        second: of the other.
        correlation: r of the two estimates.

    References:
        zou2008mover
    """
    value = first[0] - second[0]

    def reach(own: float, other: float) -> float:
        # Here and below NaN comes first, and stays.
        return math.sqrt(max(own * own + other * other - 2 * correlation * own * other, 0.0))

    low = value - reach(first[0] - first[1], second[2] - second[0])
    high = value + reach(first[2] - first[0], second[0] - second[1])
    return max(low, -1.0), min(high, 1.0)


def hit_difference_limits(gained: int, lost: int, images: int) -> tuple[float, float]:
    """Limits of the difference of two rates on the same images.

    Args:
        gained: images on which only the first hits.
        lost: images on which only the second does.
        images: all images with both, at least 2.
    """
    rates = gained / images, lost / images
    # An image that is gained is not lost.
    odds = rates[0] * rates[1] / ((1 - rates[0]) * (1 - rates[1])) if max(rates) < 1 else 0.0
    first, second = ((rate, *rate_limits(rate, images)) for rate in rates)
    return difference_limits(first, second, correlation=-math.sqrt(odds))


@lru_cache(maxsize=4096)
def _beta_quantile(a: float, b: float, share: float) -> float:
    """Quantile of the beta distribution: Newton's steps inside a bisection."""
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
    fraction = d
    for m in range(1, 100_000):
        for term in (
            m * (b - m) * at / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * at / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return fraction
