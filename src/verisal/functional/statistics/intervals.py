"""Means over images with bootstrap intervals, for anything that has one value per image."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

from verisal.functional.statistics.detection import bootstrap_weights, percentile_score
from verisal.functional.statistics.shares import hit_difference, plain_rate
from verisal.results import Score

__all__ = ["are_hits", "bootstrap_mean", "weighted_means"]


def weighted_means(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over the defined images of every resample.

    Args:
        values: ``(n,)``; NaN and infinity are undefined and left out.
        weights: ``(S, n)``, how often each image occurs in each resample.

    Returns:
        ``(S,)`` float64; NaN for a resample without a defined image.
    """
    defined = values.isfinite()
    kept, share = values[defined].double(), weights[:, defined].double()
    return (share @ kept) / share.sum(dim=1)


def bootstrap_mean(
    values: Tensor,
    *,
    kind: Literal["value", "measure", "difference", "hit difference"] = "value",
    resamples: int = 2000,
    seed: int = 0,
) -> Score:
    """Mean of per-image values with its 95 % interval over images.

    The interval is that of the bootstrap's percentiles. Values that are all 0 or 1 are hits, and their mean
    is a rate, which gets the limits of one: the bootstrap has none for a rate of 0 or 1.

    Args:
        values: ``(n,)``; NaN and infinity are undefined: counted, and left out.
        kind: ``measure``: never a hit, such as a similarity that is 1 throughout. ``difference``: each is the
            first method's value minus the second's on the same image, undefined if either is.
            ``hit difference``: the same of hits, hence -1, 0 or 1.
        resamples: bootstrap resamples; 0 for no interval.
        seed: of the resampling.
    """
    kept = values.detach().double().cpu()
    kept = kept[kept.isfinite()]
    n, undefined = len(kept), len(values) - len(kept)
    if n == 0:
        return Score(math.nan, math.nan, math.nan, n=0, undefined=undefined)
    if resamples and n > 1:
        if kind == "value" and are_hits(kept):
            return plain_rate(float(kept.mean()), n).score(n=n, undefined=undefined)
        # Two methods that agree on all images may agree because they are one; two rates may not.
        told = kind == "hit difference" or bool(kept.any())
        if kind.endswith("difference") and told and are_hits(kept.abs()):
            gained, lost = int((kept == 1).sum()), int((kept == -1).sum())
            return hit_difference(gained, lost, n, undefined=undefined)
    resampled = weighted_means(kept, bootstrap_weights(n, resamples=resamples, seed=seed))
    return percentile_score(float(kept.mean()), resampled, n=n, undefined=undefined)


def are_hits(values: Tensor) -> bool:
    """Whether all are 0 or 1, so that their mean is a rate; ``(n,)`` without NaN."""
    return bool(((values == 0) | (values == 1)).all())
