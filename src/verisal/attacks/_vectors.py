"""Arithmetic on batches of noise that several attacks share."""

from __future__ import annotations

import torch
from torch import Tensor

from verisal.functional.adversarial import noise_norm

__all__ = ["unit", "wide"]


def unit(vectors: Tensor) -> Tensor:
    """Each sample at length 1, however small its values; exactly zero stays zero."""
    shape = (-1, *[1] * (vectors.ndim - 1))
    largest = noise_norm(vectors, "linf").view(shape)
    scaled = vectors / torch.where(largest > 0, largest, 1)
    length = noise_norm(scaled, "l2").view(shape)
    return scaled / torch.where(length > 0, length, 1)


def wide(values: Tensor) -> Tensor:
    """``(n,)`` as ``(n, 1, 1, 1)``."""
    return values.view(-1, 1, 1, 1)
