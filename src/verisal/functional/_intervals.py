"""Means over images with bootstrap intervals, for anything that has one value per image."""

from __future__ import annotations

import math

from torch import Tensor

from verisal.types import Score

from ._detection import bootstrap_weights, percentile_score

__all__ = ["bootstrap_mean", "weighted_means"]


def weighted_means(values: Tensor, weights: Tensor) -> Tensor:
    """Mean over the defined images of every resample.

    Args:
        values: ``(n,)``; NaN is undefined and left out.
        weights: ``(S, n)``, how often each image occurs in each resample.

    Returns:
        ``(S,)`` float64; NaN for a resample without a defined image.
    """
    defined = ~values.isnan()
    kept, share = values[defined].double(), weights[:, defined].double()
    return (share @ kept) / share.sum(dim=1)


def bootstrap_mean(values: Tensor, *, resamples: int = 2000, seed: int = 0) -> Score:
    """Mean of per-image values with its 95 % percentile interval over images.

    For a difference of two methods on the same images pass the difference of their values: undefined in
    either is undefined in both.

    Args:
        values: ``(n,)``; NaN is undefined: counted, and left out.
        resamples: bootstrap resamples; 0 for no interval.
        seed: of the resampling.
    """
    kept = values.detach().double().cpu()
    kept = kept[~kept.isnan()]
    n, undefined = len(kept), len(values) - len(kept)
    if n == 0:
        return Score(math.nan, math.nan, math.nan, n=0, undefined=undefined)
    resampled = weighted_means(kept, bootstrap_weights(n, resamples=resamples, seed=seed))
    return percentile_score(float(kept.mean()), resampled, n=n, undefined=undefined)
