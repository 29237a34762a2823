"""Sensitivity of a method's attributions to noise."""

from __future__ import annotations

from typing import final

from torch import Tensor

from verisal._numbers import check_range
from verisal.functional.comparison.sensitivity import sensitivity_max, uniform_noises
from verisal.functional.comparison.similarity import attribution_of
from verisal.metrics._base import SaliencyMetric
from verisal.types import Explained

__all__ = ["SensitivityMax"]


@final
class SensitivityMax(SaliencyMetric):
    """Largest relative change of the attribution under uniform noise, lower is better.

    Asks the method for maps of noisy images; the query class stays. Score: ``value``.

    Args:
        radius: r of the noise in [-r, r], in [0, 1] pixel units.
        samples: noisy copies per image.
        chunk_size: images explained at once, at least a batch.
        resamples: bootstrap resamples of the intervals.
        seed: of the noise and of the resampling.

    References:
        yeh2019

    Differs from:
        - See :func:`.sensitivity_max`.
    """

    better = "low"

    def __init__(
        self,
        *,
        radius: float = 0.02,
        samples: int = 10,
        chunk_size: int = 64,
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        check_range(0, above=True, radius=radius)
        check_range(1, samples=samples, chunk_size=chunk_size)
        super().__init__(f"sensitivity_max[{radius:g},{samples}]", ("value",), resamples=resamples, seed=seed)
        self.radius, self.samples, self.chunk_size = radius, samples, chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """As many maps per image as samples."""
        return sensitivity_max(
            explained.explain,
            explained.images,
            query_class=explained.query_class,
            attribution=attribution_of(explained.result),
            noises=uniform_noises(explained.images, radius=self.radius, samples=self.samples, seed=self.seed),
            chunk_size=self.chunk_size,
        )[:, None]
