"""The one rule by which an image is perturbed."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["compose"]


def compose(images: Tensor, baseline_images: Tensor, masks: Tensor) -> Tensor:
    r"""Blend in pixel space: :math:`\pi(x, b, m) = m x + (1 - m) b`.

    Args:
        images: ``(..., 3, H, W)`` in [0, 1].
        baseline_images: broadcastable to the images.
        masks: float, broadcastable to the images, in [0, 1]; 1 keeps.
    """
    # One pass over memory, and exact where the mask is 0 or 1.
    return torch.lerp(baseline_images, images, masks)
