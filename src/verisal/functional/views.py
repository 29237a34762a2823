"""Slightly changed copies of images, and how far the classifier's output moves on them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["shift_one_pixel", "softmax_distance"]


def shift_one_pixel(images: Tensor) -> Tensor:
    """Images ``(B, C, H, W)`` moved one pixel right and down; the first row and column are repeated.

    >>> shift_one_pixel(torch.arange(4.0).view(1, 1, 2, 2))[0, 0]
    tensor([[0., 0.],
            [0., 0.]])
    """
    moved = F.pad(images, (1, 0, 1, 0), mode="replicate")[..., :-1, :-1]
    return moved.contiguous(memory_format=torch.channels_last)


def softmax_distance(logits: Tensor, other: Tensor) -> Tensor:
    """L1 distance ``(B,)`` of two softmax outputs, in [0, 2], from logits ``(B, K)``."""
    return (logits.softmax(dim=1) - other.softmax(dim=1)).abs().sum(dim=1)
