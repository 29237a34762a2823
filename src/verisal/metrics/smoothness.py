"""How smooth a method's maps are."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from verisal.functional.comparison.smoothness import high_frequency_share, variation_at_equal_mass
from verisal.metrics._base import SaliencyMetric
from verisal.types import Explained

__all__ = ["Smoothness"]


@final
class Smoothness(SaliencyMetric):
    """Total variation at equal mass, and the share of energy at high frequencies; neither end is good.

    Any blur makes a map smoother, so read it beside scores of what the map says; and beside
    :class:`.BlurredLike`, the plain blur of another method's map to the same variation.

    Args:
        resamples: bootstrap resamples of the intervals.
        seed: of the resampling.

    References:
        rudin1992
    """

    def __init__(self, *, resamples: int = 2000, seed: int = 0) -> None:
        columns = ("total_variation", "high_frequencies")
        super().__init__("smoothness", columns, resamples=resamples, seed=seed)

    def rows_of(self, explained: Explained) -> Tensor:
        """Of the maps as they are; the network is not asked."""
        maps = explained.result.saliency
        return torch.stack([variation_at_equal_mass(maps), high_frequency_share(maps)], dim=1)
