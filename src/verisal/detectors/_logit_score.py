"""What scores that only read the logits have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import final

from torch import Tensor

from verisal.detectors._base import Detector
from verisal.detectors._outputs import Logits
from verisal.types import Measurement

__all__ = ["LogitScore"]


class LogitScore(Detector):
    """Scores an image by the classifier's logits alone, and learns nothing."""

    @property
    @final
    def measurement(self) -> Measurement:
        """The logits."""
        return Logits()

    @final
    def fit(
        self, measured: Mapping[str, Tensor], adversarial: Tensor, clean: Tensor, *, seed: int = 0
    ) -> None:
        """The score has no parameters; nothing is read."""

    @abstractmethod
    def judge(self, measured: Mapping[str, Tensor]) -> Tensor:
        """``(B,)`` scores from ``logits (B, K)``."""
