r"""Curves of a classifier's score while whole bands of the images are removed, most evidence first.

The unit of removal is a band (channel), all pixels together. A band's evidence is its share of the sum of
:math:`|a|` over the attribution, by which every method can be ranked: the map of several channels is the
largest absolute value, too, and the sign of a plain gradient is a direction, not a vote for or against the
class. What a band says for or against is seen in the fall of the score when it alone is removed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Baseline, bound, compose
from verisal.functional.comparison.similarity import defined_maps
from verisal.functional.outputs import ask, output_of, probabilities
from verisal.functional.scopes import scored_at_once, scoring
from verisal.functional.seeding import per_image
from verisal.types import check_images, check_query_class, check_range


@dataclass(frozen=True)
class BandScores:
    """Bands of every image by their evidence, and the score of the query class without them.

    Rows of images whose evidence is not finite, or equal in all bands, are NaN.

    Attributes:
        evidence: ``(B, C)`` float64, share of each band in the sum of the absolute attribution.
        order: ``(B, C)`` int64, the bands, most evidence first; of equal ones the first.
        fractions: ``(C + 1,)`` float64, share of the bands that are removed, from 0 to 1.
        scores: ``(B, C + 1)``, with the bands removed in that order.
        random_scores: ``(B, C + 1)``, mean over random orders.
        falls: ``(B, C)``, by how much the score falls when the band alone is removed.
        fall_scores: ``(B, C + 1)``, with the bands removed by that fall, the largest first: without any map.
    """

    evidence: Tensor
    order: Tensor
    fractions: Tensor
    scores: Tensor
    random_scores: Tensor
    falls: Tensor
    fall_scores: Tensor

    __repr__ = brief


def band_evidence(attribution: Tensor) -> Tensor:
    """``(B, C)`` float64: share of each band in the sum of the absolute attribution ``(B, C, H, W)``.

    >>> band_evidence(torch.tensor([[[[3.0]], [[-1.0]]]])).tolist()
    [[0.75, 0.25]]
    """
    sums = attribution.double().abs().sum(dim=(2, 3))
    return sums / sums.sum(dim=1, keepdim=True)


def band_removal(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    attribution: Tensor,
    query_class: Tensor,
    *,
    baseline: Baseline,
    random_orders: int = 4,
    seed: int = 0,
    score: Literal["probability", "logit"] = "probability",
    chunk_size: int = 32,
) -> BandScores:
    """Score of the query class while bands are removed one after the other, and two controls.

    Args:
        classifier: gives logits ``(B, K)`` of images in [0, 1]; a module is put into eval mode meanwhile.
        images: ``(B, C, H, W)`` float32 in [0, 1], of at least two bands.
        attribution: ``(B, C, H, W)`` signed, as :attr:`.SaliencyResult.attribution` of the methods that have
            one for each band.
        query_class: ``(B,)`` int64.
        baseline: what replaces a band: :class:`.DatasetMean` the band's mean over the data set,
            :class:`.ImageMean` that of the image, which leaves the band's level as evidence.
        random_orders: orders that are drawn for each image as a control.
        seed: of the orders, which depend on it and the image's content only.
        score: what is kept of the logits.
        chunk_size: images per pass of the classifier; changes memory and speed only.

    Raises:
        ConfigError: a setting, a query class or a baseline that does not fit, such as one that is made from
            the pixels that are kept.
        DataError: images of one band, or an attribution of another shape.

    Differs from:
        samek2017: bands in place of pixels, by any baseline.
    """
    _check(images, attribution, baseline)
    check_range(1, random_orders=random_orders, chunk_size=chunk_size)
    if score not in ("probability", "logit"):
        raise ConfigError(f"score must be 'probability' or 'logit', found {score!r}")
    count, bands = images.shape[:2]
    evidence = band_evidence(attribution.detach())
    order = evidence.sort(dim=1, descending=True, stable=True).indices
    defined = defined_maps(evidence)
    rows = defined.nonzero()[:, 0]
    drawn = _random_orders(images, random_orders, seed)[rows]
    lines = images.new_full((count, 3, bands + 1), torch.nan)
    falls = images.new_full((count, bands), torch.nan)
    with scoring(classifier, images.device):
        fills = bound(baseline, classifier)(images, query_class=query_class)
        versions = _Versions(classifier, images, fills, query_class, score, chunk_size)
        curve = versions(rows, _kept(order[rows]))
        alone = ~torch.eye(bands, dtype=torch.bool, device=images.device)
        single = versions(rows, alone.expand(len(rows), -1, -1))
        falls[rows] = curve[:, :1] - single
        by_fall = falls[rows].sort(dim=1, descending=True, stable=True).indices
        others = torch.cat([drawn, by_fall[:, None]], dim=1)
        # The first step and both ends of every order are known.
        later = _kept(others.flatten(0, 1))[:, 2:-1]
        inner = versions(rows, later.reshape(len(rows), (random_orders + 1) * (bands - 2), bands))
    shape = (len(rows), random_orders + 1, -1)
    first = single[:, None].expand(*shape).gather(2, others[:, :, :1])
    start, end = (curve[:, place, None, None].expand(*shape) for place in (0, -1))
    inner = inner.view(*shape[:2], bands - 2)
    control = torch.cat([start, first, inner, end], dim=2)
    lines[rows] = torch.stack([curve, control[:, :-1].mean(dim=1), control[:, -1]], dim=1)
    fractions = torch.arange(bands + 1, dtype=torch.float64, device=images.device) / bands
    evidence = evidence.masked_fill(~defined[:, None], torch.nan)
    return BandScores(evidence, order, fractions, lines[:, 0], lines[:, 1], falls, lines[:, 2])


@dataclass(frozen=True)
class _Versions:
    """Scores of images with bands removed."""

    classifier: Callable[[Tensor], Tensor]
    images: Tensor
    fills: Tensor
    query_class: Tensor
    score: Literal["probability", "logit"]
    chunk_size: int

    def __call__(self, rows: Tensor, kept: Tensor) -> Tensor:
        """``(N, V)``: score of the images numbered ``rows (N,)`` with the bands of ``kept (N, V, C)``."""
        versions, output = kept.shape[1], output_of(self.classifier)
        places, flat = rows.repeat_interleave(versions), kept.flatten(0, 1).to(self.images.dtype)
        scores = self.images.new_empty(len(places))
        at_once = scored_at_once(self.chunk_size, self.images)
        for start in range(0, len(places), at_once):
            part = slice(start, start + at_once)
            some, query = places[part], self.query_class[places[part]]
            changed = compose(self.images[some], self.fills[some], flat[part, :, None, None])
            logits = ask(self.classifier, changed, allow_nan=True).float()
            check_query_class(query, len(some), logits.shape[1])
            values = logits if self.score == "logit" else probabilities(logits, output)
            scores[part] = values.gather(1, query[:, None])[:, 0]
        return scores.view(len(rows), versions)


def _kept(order: Tensor) -> Tensor:
    """``(N, C + 1, C)`` bool: bands left at every point, of orders of removal ``(N, C)``."""
    bands = order.shape[1]
    places = torch.argsort(order, dim=1)
    return places[:, None] >= torch.arange(bands + 1, device=order.device)[:, None]


def _random_orders(images: Tensor, count: int, seed: int) -> Tensor:
    """``(B, count, C)`` int64: permutations of the bands, drawn by the content of each image."""

    def draw(generator: torch.Generator) -> Tensor:
        return torch.stack([torch.randperm(images.shape[1], generator=generator) for _ in range(count)])

    return per_image(draw, images, seed=seed, stream="orders of bands")


def _check(images: Tensor, attribution: Tensor, baseline: Baseline) -> None:
    check_images(images)
    if images.shape[1] < 2:
        raise DataError("bands can be ranked where there are two or more, found images of one channel")
    if attribution.shape != images.shape:
        raise DataError(
            f"the attribution must have every band of the images, {tuple(images.shape)}, found"
            f" {tuple(attribution.shape)}; gradient methods have, Occlusion and RISE with per_channel=True"
        )
    if baseline.needs_mask:
        raise ConfigError(
            f"a whole band is replaced, and {baseline.name} is made from the pixels that are kept; choose"
            " DatasetMean, ImageMean, Constant or another baseline that needs no mask"
        )
