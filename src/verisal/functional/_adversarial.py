"""Norms, projections and 8-bit rounding of adversarial noise, all per sample."""

from __future__ import annotations

import torch
from torch import Tensor

from verisal.types import Norm

__all__ = ["noise_norm", "project_noise", "round_to_8bit"]


def noise_norm(noise: Tensor, norm: Norm) -> Tensor:
    r"""Norm of each sample's noise over all its values.

    Args:
        noise: ``(B, ...)`` float.
        norm: ``linf`` (largest absolute value) or ``l2`` (root of the sum of squares).

    Returns:
        ``(B,)``.
    """
    flat = noise.flatten(1)
    if norm == "linf":
        return flat.abs().amax(dim=1) if flat.shape[1] else flat.new_zeros(len(flat))
    return flat.norm(dim=1)


def project_noise(noise: Tensor, eps: float, norm: Norm) -> Tensor:
    """Nearest noise inside the ball of radius ``eps``; samples inside it stay as they are."""
    if norm == "linf":
        return noise.clamp(-eps, eps)
    size = noise_norm(noise, "l2").view(-1, *[1] * (noise.ndim - 1))
    return noise * (eps / size.clamp_min(1e-12)).clamp_max(1.0)


def round_to_8bit(images: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to multiples of 1/255, as any stored image is; returns uint8.

    Divide by 255 for the image that a classifier sees.
    """
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
