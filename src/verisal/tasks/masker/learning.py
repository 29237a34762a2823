"""Losses of the network that predicts gates of places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.functional.filters import gaussian_blur
from verisal.saliency.gates.contributions import in_pixels
from verisal.saliency.gates.masks import resize_maps

# Side of an image for which the read-out's smoothing of 5 pixels is stated.
_SIDE, _SMOOTHING = 224, 5.0
# Factors of the geometric mean are raised by it: the root has no slope at 0.
_RAISED, _TINY = 1e-4, 1e-6


def place_loss(logits: Sequence[Tensor], goals: Sequence[Tensor]) -> Tensor:
    """``(B,)``: binary cross-entropy to gates ``(B, 1, h_l, w_l)``, mean over places and over stages."""
    pairs = zip(logits, goals, strict=True)
    losses = [
        F.binary_cross_entropy_with_logits(one, goal.to(one), reduction="none").mean(dim=(1, 2, 3))
        for one, goal in pairs
    ]
    return torch.stack(losses).mean(dim=0)


def evidence_loss(kept: Tensor, evidence: Tensor, *, least: float) -> Tensor:
    """``(B,)``: squared difference of the evidence kept to all of it, relative to all of it.

    Args:
        kept: ``(B,)`` in logits.
        evidence: ``(B,)``.
        least: evidence below it counts as so much: little of it is no great loss.
    """
    return ((kept - evidence) / evidence.clamp_min(least)).square()


def joined(stages: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Contributions ``(B, 1, h_l, w_l)`` as one map ``(B, 1, *size)`` that adds up to 1; differentiable.

    The geometric mean over stages, smoothed, as :class:`.EvidenceMasks` shows them.
    """
    layers = [in_pixels(stage.clamp_min(0), size) for stage in stages]
    scaled = [layer / layer.amax(dim=(-2, -1), keepdim=True).clamp_min(_TINY) for layer in layers]
    fused = torch.stack([(layer + _RAISED).log() for layer in scaled]).mean(dim=0).exp()
    smooth = gaussian_blur(fused, _SMOOTHING * min(size) / _SIDE)
    return smooth / smooth.sum(dim=(1, 2, 3), keepdim=True)


def map_loss(found: Tensor, goal: Tensor) -> Tensor:
    """``(B,)``: Kullback-Leibler divergence of maps ``(B, 1, H, W)`` that add up to 1, from the goal."""
    return (goal * ((goal + _TINY).log() - (found + _TINY).log())).sum(dim=(1, 2, 3))


def as_goal(saliency: Tensor, size: tuple[int, int]) -> Tensor:
    """A map ``(B, 1, H, W)`` at another size, adding up to 1; 0 where it is empty."""
    small = resize_maps(saliency, size)
    total = small.sum(dim=(1, 2, 3), keepdim=True)
    return small / total.clamp_min(torch.finfo(small.dtype).tiny)
