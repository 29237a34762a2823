"""Saliency fidelity of a method's maps."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from verisal._numbers import check_range
from verisal.functional.comparison.similarity import attribution_of, postprocess
from verisal.functional.removal.faithfulness import saliency_fidelity
from verisal.metrics._base import SaliencyMetric
from verisal.types import Explained

__all__ = ["SaliencyFidelity"]


@final
class SaliencyFidelity(SaliencyMetric):
    """Saliency fidelity S_F of post-processed attributions, lower is better.

    Scores: ``value``, and ``floored``, the share of images with a probability below its floor.

    Args:
        percentile: at which attributions are winsorised; see :func:`.postprocess`.
        chunk_size: images in one network pass.
        resamples: bootstrap resamples of the intervals.
        seed: of the resampling.

    References:
        lu2021decoys

    Differs from:
        - See :func:`.saliency_fidelity`.
    """

    better = "low"

    def __init__(
        self, *, percentile: float = 95.0, chunk_size: int = 64, resamples: int = 2000, seed: int = 0
    ) -> None:
        check_range(0, 100, above=True, percentile=percentile)
        check_range(1, chunk_size=chunk_size)
        setting = "" if percentile == 95.0 else f",p{percentile:g}"
        super().__init__(
            f"saliency_fidelity[black{setting}]", ("value", "floored"), resamples=resamples, seed=seed
        )
        self.percentile, self.chunk_size = percentile, chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """Two network passes per image."""
        found = saliency_fidelity(
            explained.classifier,
            explained.images,
            maps=postprocess(attribution_of(explained.result), percentile=self.percentile),
            query_class=explained.query_class,
            chunk_size=self.chunk_size,
        )
        floored = found.floored.double().where(~found.values.isnan(), torch.nan)
        return torch.stack([found.values, floored], dim=1)
