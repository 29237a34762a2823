"""The classifier's own lack of confidence: the simplest comparison detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from verisal.detectors._logit_score import LogitScore
from verisal.functional.outputs import log_odds

__all__ = ["MaxSoftmax"]


@final
@dataclass
class MaxSoftmax(LogitScore):
    """Scores an image by minus the log odds of its largest softmax probability.

    The order is that of one minus the probability; log odds do not saturate.

    References:
        hendrycks2017baseline
    """

    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` scores from ``logits (B, K)``."""
        return self.of_confidence(log_odds(measured["logits"]))

    @staticmethod
    def of_confidence(confidence: Tensor) -> Tensor:
        """The score, from log odds that are already there."""
        return -confidence
