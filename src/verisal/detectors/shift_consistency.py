"""How much the classifier's output changes when the image moves by one pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from verisal.functional import shift_one_pixel, softmax_distance

from ._base import Detector

__all__ = ["ShiftConsistency"]


@final
class ShiftConsistency(Detector):
    """Scores an image by the L1 distance of the softmax outputs of it and of its shifted copy.

    The control of every detector that reads a shifted copy: it says how much of the alarm the shift alone
    accounts for.

    Args:
        classifier: maps images in [0, 1] to logits, in eval mode.

    References:
        xu2018squeezing

    Differs from:
        the paper squeezes by bit depth, median filter and non-local means, here by a shift of one pixel.
    """

    def __init__(self, classifier: Callable[[Tensor], Tensor]) -> None:
        self._classifier = classifier

    def fit(self, images: Tensor, adversarial: Tensor) -> None:
        """The score has no parameters; nothing is read."""

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """``(B,)`` scores of images ``(B, 3, H, W)`` in [0, 1]."""
        return softmax_distance(self._classifier(images), self._classifier(shift_one_pixel(images)))
