"""Curves averaged over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.functional.statistics.resampled import FEWEST_FOR_PERCENTILES


@dataclass(frozen=True)
class MeanCurve:
    """One curve, averaged over the images that counted.

    Attributes:
        fractions: ``(N,)`` float64, share of the pixels that were changed, as asked for. Areas are computed
            with each image's own shares, which are whole pixels and thus within half a pixel of these.
        mean: ``(N,)`` float64.
        n: number of images.
        error: ``(N,)`` float64, standard error of the mean; None of too few images to say.
    """

    fractions: Tensor
    mean: Tensor
    n: int
    error: Tensor | None = None

    __repr__ = brief


def mean_curves(points: Tensor, names: Sequence[str], fractions: Sequence[float]) -> dict[str, MeanCurve]:
    """Mean curves by name, each over the images of which all of its points are defined.

    Args:
        points: ``(n, C N)`` of every image, curve after curve.
        names: of the C curves.
        fractions: of their N points.
    """
    lines = points.view(len(points), len(names), len(fractions))
    means = {}
    for name, line in zip(names, lines.unbind(1), strict=True):
        defined = line[line.isfinite().all(dim=1)]
        n = len(defined)
        error = defined.std(dim=0) / n**0.5 if n >= FEWEST_FOR_PERCENTILES else None
        shares = torch.tensor(fractions, dtype=torch.float64)
        means[name] = MeanCurve(shares, defined.mean(dim=0), n, error)
    return means
