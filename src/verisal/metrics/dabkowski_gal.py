"""Dabkowski and Gal's score of a method's maps."""

from __future__ import annotations

from typing import final

from torch import Tensor

from verisal._numbers import check_range
from verisal.functional.removal.faithfulness import dabkowski_gal
from verisal.metrics._base import SaliencyMetric
from verisal.types import Explained

__all__ = ["DabkowskiGal"]


@final
class DabkowskiGal(SaliencyMetric):
    """Log area of the crop round the map minus the crop's log probability, lower is better.

    Score: ``value``.

    Args:
        threshold: share of the map's maximum that belongs to the crop; choose it with
            :func:`.tuned_threshold` on images that are not scored.
        empty_probability: probability of the empty crop of an all-zero map; None leaves it undefined.
        chunk_size: images in one network pass.
        resamples: bootstrap resamples of the intervals.
        seed: of the resampling.

    References:
        dabkowski2017

    Differs from:
        - See :func:`.dabkowski_gal`.
    """

    better = "low"

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        empty_probability: float | None = None,
        chunk_size: int = 64,
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        check_range(0, 1, above=True, threshold=threshold)
        check_range(0, 1, above=True, empty_probability=empty_probability)
        check_range(1, chunk_size=chunk_size)
        setting = "" if empty_probability is None else f",empty={empty_probability:g}"
        super().__init__(f"dabkowski_gal[{threshold:g}{setting}]", ("value",), resamples=resamples, seed=seed)
        self.threshold, self.empty_probability = threshold, empty_probability
        self.chunk_size = chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """One network pass per image."""
        return dabkowski_gal(
            explained.classifier,
            explained.images,
            maps=explained.result.saliency,
            query_class=explained.query_class,
            threshold=self.threshold,
            empty_probability=self.empty_probability,
            chunk_size=self.chunk_size,
        )[:, None]
