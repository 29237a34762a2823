"""Measurements that need nothing of the classifier but its logits."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from verisal.functional.filters import shift_one_pixel
from verisal.functional.outputs import ask, require_softmax
from verisal.functional.scopes import frozen, gradient_scope
from verisal.types import Measurement, StagedClassifier, check_images

__all__ = ["Logits", "ShiftedLogits", "logits_of"]


def logits_of(classifier: StagedClassifier, images: Tensor) -> Tensor:
    """Logits ``(B, K)`` in float32, the classifier in eval mode and left as it was."""
    check_images(images)
    quiet = frozen(classifier) if isinstance(classifier, nn.Module) else nullcontext()
    require_softmax(classifier, "a detector of adversarial images")
    with quiet, gradient_scope(images.device.type), torch.no_grad():
        return ask(classifier, images)


@final
@dataclass(frozen=True)
class Logits(Measurement):
    """``logits (B, K)`` of the image as it is."""

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Logits of images ``(B, 3, H, W)`` in [0, 1]."""
        return {"logits": logits_of(classifier, images)}


@final
@dataclass(frozen=True)
class ShiftedLogits(Measurement):
    """``logits (B, K)`` of the image, and ``shifted/logits (B, K)`` of the image moved by one pixel."""

    def __call__(self, classifier: StagedClassifier, images: Tensor) -> dict[str, Tensor]:
        """Logits of both views of images ``(B, 3, H, W)`` in [0, 1]."""
        moved = shift_one_pixel(images)
        return {"logits": logits_of(classifier, images), "shifted/logits": logits_of(classifier, moved)}
