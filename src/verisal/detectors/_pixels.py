"""The measurement of the control that reads the image itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from verisal.detectors._outputs import logits_of
from verisal.functional.adversarial import round_to_8bit
from verisal.types import Measurement, StagedClassifier

__all__ = ["Pixels"]


@final
@dataclass(frozen=True)
class Pixels(Measurement):
    """``image (B, 3, H, W)``, the image itself in 8 bits, and ``logits (B, K)``. One forward pass."""

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Bytes and logits of images ``(B, 3, H, W)`` in [0, 1]."""
        return {"image": round_to_8bit(images), "logits": logits_of(classifier, images)}
