"""Similarity of a method's maps to those of another setting, beside its noise floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

from verisal.functional.comparison.maps import map_similarities, random_maps
from verisal.functional.comparison.similarity import spearman
from verisal.metrics._base import SaliencyMetric
from verisal.types import Explained, SaliencyResult

__all__ = ["MapSimilarity"]

Method = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], SaliencyResult]


@final
class MapSimilarity(SaliencyMetric):
    """How like the maps of another method, or of another setting of the same one, the maps are.

    Scores: ``spearman``, ``pearson``, ``ssim``, ``top_5``, ``top_10``, ``top_20`` (intersection over union),
    ``floor`` (Spearman of two runs of the same setting) and ``control`` (Spearman with random maps).

    Args:
        other: what is compared with: classifier, images and query class to maps.
        label: of the other, for the metric's name.
        repeat: the explained setting with other random numbers; None for a deterministic method, whose floor
            is 1.
        resamples: bootstrap resamples of the intervals.
        seed: of the random maps and of the resampling.
    """

    def __init__(
        self, other: Method, *, label: str, repeat: Method | None = None, resamples: int = 2000, seed: int = 0
    ) -> None:
        super().__init__(
            f"map_similarity[{label}]",
            ("spearman", "pearson", "ssim", "top_5", "top_10", "top_20", "floor", "control"),
            resamples=resamples,
            seed=seed,
        )
        self.other, self.repeat = other, repeat

    def rows_of(self, explained: Explained) -> Tensor:
        """One map of the other and one of the repetition per image."""
        asked = explained.classifier, explained.images, explained.query_class
        maps = explained.result.saliency
        found = map_similarities(maps, self.other(*asked).saliency)
        control = spearman(maps, random_maps(maps, image_ids=explained.image_ids, seed=self.seed))
        # A deterministic method is like itself wherever its map is defined.
        floor = spearman(maps, maps if self.repeat is None else self.repeat(*asked).saliency)
        return torch.stack([*found.values(), floor, control], dim=1)
