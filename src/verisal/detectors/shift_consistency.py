"""How much the classifier's output changes when the image moves by one pixel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from verisal.detectors._base import Detector
from verisal.detectors._outputs import ShiftedLogits
from verisal.functional.filters import softmax_distance
from verisal.types import Measurement

__all__ = ["ShiftConsistency"]


@final
@dataclass
class ShiftConsistency(Detector):
    """Scores an image by the L1 distance of the softmax outputs of it and of its shifted copy.

    The control of every detector that reads a shifted copy: it says how much of the alarm the shift alone
    accounts for.

    References:
        xu2018squeezing

    Differs from:
        the paper squeezes by bit depth, median filter and non-local means, here by a shift of one pixel.
    """

    @property
    def measurement(self) -> Measurement:
        """The logits of both views."""
        return ShiftedLogits()

    def fit(
        self, measured: Mapping[str, Tensor], adversarial: Tensor, clean: Tensor, *, seed: int = 0
    ) -> None:
        """The score has no parameters; nothing is read."""

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` scores from both views' logits ``(B, K)``."""
        return softmax_distance(measured["logits"], measured["shifted/logits"])
