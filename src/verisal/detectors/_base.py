"""What every detector of adversarial images is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

__all__ = ["Detector"]


class Detector(ABC):
    """Scores images; a higher score means more adversarial.

    The score is continuous, so that thresholds can be chosen on clean validation images afterwards.
    """

    @abstractmethod
    def fit(self, images: Tensor, adversarial: Tensor) -> None:
        """Learn from ``(N, 3, H, W)`` in [0, 1] and ``(N,)`` bool; unsupervised ones read clean rows."""

    @abstractmethod
    def score(self, images: Tensor) -> Tensor:
        """``(B,)`` scores of images ``(B, 3, H, W)`` in [0, 1]."""
