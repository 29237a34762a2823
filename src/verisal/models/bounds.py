"""The range of the values that a network takes, where it is another one than [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Final, final

from torch import Tensor

from verisal.errors import ConfigError, DataError

# Rounding of sums and of half precision, as a share of the range.
_SPARE = 1e-4


@final
@dataclass(frozen=True)
class Bounds:
    """Least and greatest value of what a network takes, such as -1024 and 1024 of an X-ray network.

    Images are in [0, 1] everywhere in verisal: 0 is the least value and 1 the greatest.

    Attributes:
        low: value of 0.
        high: value of 1.

    Raises:
        ConfigError: bounds that are no numbers, or not in this order.

    >>> import torch
    >>> Bounds(-1024, 1024).to_unit(torch.tensor([-1024.0, 0.0, 1024.0])).tolist()
    [0.0, 0.5, 1.0]
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(f"bounds must be two finite numbers, low below high, found {self}")

    def __str__(self) -> str:
        """As in messages: ``[-1024, 1024]``."""
        return f"[{self.low:g}, {self.high:g}]"

    @classmethod
    def of(cls, told: Bounds | Sequence[float] | None) -> Bounds:
        """What a user says; None for [0, 1].

        Raises:
            ConfigError: anything but two numbers.
        """
        if told is None:
            return UNIT
        if isinstance(told, Bounds):
            return told
        if (
            not isinstance(told, Sequence)
            or len(told) != 2
            or not all(isinstance(value, Real) for value in told)
        ):
            raise ConfigError(f"bounds must be (low, high), such as (-1024, 1024), found {told!r}")
        return cls(float(told[0]), float(told[1]))

    @property
    def width(self) -> float:
        """Units from the least to the greatest value: what a noise of 1 is in the network's own units."""
        return self.high - self.low

    def to_unit(self, values: Tensor) -> Tensor:
        """Images in [0, 1] float32 of values in these bounds, of any shape and dtype.

        Raises:
            DataError: values outside, beyond rounding, or that are no numbers.
        """
        values = values.float()
        if values.numel():
            low, high, spare = float(values.min()), float(values.max()), _SPARE * self.width
            if not (low >= self.low - spare and high <= self.high + spare):
                raise DataError(self.left(low, high))
        return ((values - self.low) / self.width).clamp(0, 1)

    def left(self, low: float, high: float) -> str:
        """What is said about images with values from ``low`` to ``high``, of which some are outside."""
        return (
            f"images must lie in the bounds {self}, found values from {low:.6g} to {high:.6g}; give those"
            " that images of this kind have, not those of one batch"
        )

    def from_unit(self, images: Tensor) -> Tensor:
        """Values in these bounds of images in [0, 1]."""
        return images * self.width + self.low


UNIT: Final = Bounds(0.0, 1.0)
