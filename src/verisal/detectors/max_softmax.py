"""The classifier's own lack of confidence: the simplest comparison detector."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from verisal.functional import log_odds

from ._base import Detector

__all__ = ["MaxSoftmax"]


@final
class MaxSoftmax(Detector):
    """Scores an image by minus the log odds of its largest softmax probability.

    The order is that of one minus the probability; log odds do not saturate.

    Args:
        classifier: maps images in [0, 1] to logits, in eval mode.

    References:
        hendrycks2017baseline
    """

    def __init__(self, classifier: Callable[[Tensor], Tensor]) -> None:
        self._classifier = classifier

    def fit(self, images: Tensor, adversarial: Tensor) -> None:
        """The score has no parameters; nothing is read."""

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """``(B,)`` scores of images ``(B, 3, H, W)`` in [0, 1]."""
        return self.of_confidence(log_odds(self._classifier(images)))

    @staticmethod
    def of_confidence(confidence: Tensor) -> Tensor:
        """The score, from log odds that are already there."""
        return -confidence
