r"""Noise of a mean over random masks, from its two halves.

.. math:: \mathrm{noise} = \frac{\sqrt{n_1 n_2}}{n_1 + n_2} \cdot
    \frac{\lVert S_1 - S_2 \rVert}{\lVert S \rVert}, \qquad S = \frac{n_1 S_1 + n_2 S_2}{n_1 + n_2}

where the mean over positions is taken from every map first, for a constant says nothing about places.
"""

from __future__ import annotations

import torch
from torch import Tensor


def split_half_noise(first: Tensor, second: Tensor, counts: tuple[int, int]) -> Tensor:
    """Relative standard error of the mean of two halves, ``(B,)``; about 1 where the map is noise alone.

    Args:
        first: maps ``(B, C, ...)``, the mean over one half of the masks.
        second: the same of the other half.
        counts: masks of each half.

    Returns:
        Error of the mean of both, weighted by their masks, over its own size; both in L2 over positions and
        channels, after the mean over the positions of a channel is taken away. 0 where the halves are equal;
        NaN where a half has no masks.
    """
    if not all(counts):
        return torch.full((len(first),), torch.nan, device=first.device)
    one, other = (half.flatten(2) - half.flatten(2).mean(dim=2, keepdim=True) for half in (first, second))
    total = sum(counts)
    whole = (counts[0] * one + counts[1] * other) / total
    error = (one - other).flatten(1).norm(dim=1) * (counts[0] * counts[1]) ** 0.5 / total
    noise: Tensor = error / whole.flatten(1).norm(dim=1).clamp_min(torch.finfo(first.dtype).tiny)
    return noise
