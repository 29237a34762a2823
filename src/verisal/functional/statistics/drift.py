"""Whether scores are distributed as those that set a threshold."""

from __future__ import annotations

import math
from typing import NamedTuple, final

import torch
from torch import Tensor

QUANTILES = 201
"""How many quantiles stand for a sample of scores."""

_LEVEL = 0.001


@final
class Drift(NamedTuple):
    """Distance of two samples of scores.

    Attributes:
        distance: the largest difference of their distribution functions, in [0, 1] (Kolmogorov and Smirnov).
        limit: what samples of these sizes from one distribution exceed once in a thousand times.
    """

    distance: float
    limit: float

    @property
    def drifted(self) -> bool:
        """True if the distance is beyond the limit: one distribution does not explain it."""
        return self.distance > self.limit


@final
class ScoreSample(NamedTuple):
    """What is kept of the scores that set a threshold.

    Attributes:
        quantiles: ``(201,)`` float64 from 0 to 1; NaN where there was no score.
        size: number of scores.
    """

    quantiles: Tensor
    size: int

    @staticmethod
    def of(scores: Tensor) -> ScoreSample:
        """The sample of scores ``(N,)``, without NaN ones."""
        scores = scores[~scores.isnan()].double()
        if len(scores) == 0:
            return ScoreSample(scores.new_full((QUANTILES,), torch.nan), 0)
        steps = torch.linspace(0, 1, QUANTILES, dtype=torch.float64, device=scores.device)
        return ScoreSample(torch.quantile(scores, steps), len(scores))

    def drift(self, scores: Tensor) -> Drift | None:
        r"""Distance of other scores ``(n,)`` from these; None where there are none, here or there.

        The two-sample test of Kolmogorov and Smirnov with its asymptotic limit
        :math:`\sqrt{-\tfrac12 \ln(\alpha / 2)}\,\sqrt{(n + m) / (n m)}`, alpha = 0.001, and half a percent
        for the steps of the quantiles. NaN is left out.
        """
        scores = scores[~scores.isnan()].double().sort().values
        n, m = len(scores), self.size
        if not n or not m:
            return None
        quantiles = self.quantiles.to(scores)
        at = torch.cat([quantiles, scores])
        own, reference = (
            torch.searchsorted(values, at, right=True).double() / len(values)
            for values in (scores, quantiles)
        )
        limit = math.sqrt(-math.log(_LEVEL / 2) / 2 * (n + m) / (n * m)) + 1 / (QUANTILES - 1)
        return Drift(float((own - reference).abs().max()), limit)
