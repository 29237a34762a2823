"""Ranges of the numbers that settings may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from verisal.errors import ConfigError


def check_range(
    least: float, most: float = math.inf, *, above: bool = False, **settings: float | Sequence[float] | None
) -> None:
    """Raise unless every setting, and every one of several numbers, is finite and within a range.

    Args:
        least: smallest number.
        most: greatest number.
        above: ``least`` itself is too small.
        settings: by name; None is a setting that was left out.

    Raises:
        ConfigError: naming the first setting that is not.

    >>> check_range(0, 1, dropout=1.5)
    Traceback (most recent call last):
    verisal.errors.ConfigError: dropout must be from 0 to 1, found 1.5
    """
    for name, given in settings.items():
        for value in given if isinstance(given, Sequence) and not isinstance(given, str) else (given,):
            if value is not None and not _fits(value, least, most, above=above):
                raise ConfigError(f"{name} must be {_expected(least, most, above=above)}, found {given!r}")


def _fits(value: object, least: float, most: float, *, above: bool) -> bool:
    if not isinstance(value, Real):
        return False
    try:
        number = float(value)
    except OverflowError:
        return False
    # NaN is in no range.
    return (least < number if above else least <= number) and number <= most and math.isfinite(number)


def _expected(least: float, most: float, *, above: bool) -> str:
    if math.isinf(most):
        return f"above {least}" if above and least else "positive" if above else f"at least {least}"
    return f"above {least} and at most {most}" if above else f"from {least} to {most}"
