"""Losses of the network that predicts gates of places, and how far its maps are from others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-6


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


def divergence(found: Tensor, goal: Tensor) -> Tensor:
    """``(B,)``: Kullback-Leibler divergence of maps ``(B, 1, H, W)``, scaled to a sum of 1, from the goal."""
    shares = [maps / maps.sum(dim=(1, 2, 3), keepdim=True).clamp_min(_TINY) for maps in (found, goal)]
    own, other = (share + _TINY for share in shares)
    return (shares[1] * (other.log() - own.log())).sum(dim=(1, 2, 3))
