"""Remove and debias: scores after removal by noisy linear imputation, at a few shares of the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, LinearImputation
from verisal.functional.removal.curves import removal_scores, tied_share
from verisal.metrics.curves import CurveMetric
from verisal.types import Explained

__all__ = ["ROAD"]

_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)


@final
class ROAD(CurveMetric):
    """Mean score of the query class when given shares of the pixels are imputed from the kept ones.

    Imputed pixels look like their surroundings, so that the shape of what was removed says little by itself.

    Scores: ``probability`` and ``accuracy`` (whether the query class is still predicted), both averaged over
    the shares (low is good for ``morf``, high for ``lerf``); ``ties``, the share of pixels whose place in the
    order says nothing. Images with a constant map, or one that is not finite, are undefined.

    Args:
        order: ``morf`` removes the most relevant pixels first, ``lerf`` the least relevant ones.
        baseline: what stands for removed pixels; None for noisy linear imputation.
        shares: of the pixels removed, in (0, 1), rising.
        chunk_size: images per pass of the classifier, and per solve of the imputation; changes memory and
            speed only.
        resamples: bootstrap resamples of the intervals; 0 for none.
        seed: of the resampling.

    Raises:
        ConfigError: a setting that is none of these.

    References:
        rong2022road

    Differs from:
        rong2022road: no retraining variant; the clean image is not among the shares.
    """

    def __init__(
        self,
        order: Literal["morf", "lerf"] = "morf",
        *,
        baseline: Baseline | None = None,
        shares: Sequence[float] = _SHARES,
        chunk_size: int = 32,
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        if order not in ("morf", "lerf"):
            raise ConfigError(f"order must be morf or lerf, found {order!r}")
        rising = all(first < second for first, second in pairwise(shares))
        if not shares or not rising or shares[0] <= 0 or shares[-1] >= 1:
            raise ConfigError(f"shares must rise within (0, 1), found {list(shares)}")
        if chunk_size < 1:
            raise ConfigError(f"chunk_size must be at least 1, found {chunk_size}")
        self.baseline = baseline or LinearImputation()
        other = "" if tuple(shares) == _SHARES else "_shares" + "-".join(f"{100 * s:g}" for s in shares)
        super().__init__(
            f"road_{order}[{self.baseline.name}]{other}",
            ["probability", "accuracy", "ties"],
            curves=["probability", "accuracy"],
            fractions=shares,
            resamples=resamples,
            seed=seed,
        )
        self.better = "high" if order == "lerf" else "low"
        self.order, self.chunk_size = order, chunk_size

    def rows_of(self, explained: Explained) -> Tensor:
        """Values and both lines of every image."""
        maps = explained.result.saliency
        probability, correct = removal_scores(
            explained.classifier,
            explained.images,
            maps,
            explained.query_class,
            baseline=self.baseline,
            shares=self.fractions,
            order="most_relevant_first" if self.order == "morf" else "least_relevant_first",
            chunk_size=self.chunk_size,
        )
        ties = torch.where(probability[:, 0].isnan(), torch.nan, tied_share(maps))
        means = [values.double().mean(dim=1) for values in (probability, correct)]
        return torch.cat([torch.stack([*means, ties.double()], dim=1), probability, correct], dim=1)
