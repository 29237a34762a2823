r"""Curves of a classifier's score while pixels are removed or shown in the order of a saliency map.

The unit of removal is the pixel, all channels together. The score is that of the query class, which is fixed
from the clean image for all changed versions. Both end points belong to a curve, and its fractions are the
true shares of changed pixels, so that its area does not depend on the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Baseline, bound
from verisal.functional.comparison.similarity import defined_maps
from verisal.functional.outputs import ask, decides_for, output_of, probabilities
from verisal.functional.scopes import scored_at_once, scoring
from verisal.types import check_images, check_query_class, check_range

Order = Literal["most_relevant_first", "least_relevant_first"]
_SMALLEST_DROP = 0.05


def check_maps(maps: Tensor, images: Tensor) -> None:
    """Raise :class:`DataError` unless there is one map per image, ``(B, 1, H, W)``, at its resolution."""
    expected = (len(images), 1, *images.shape[-2:])
    if tuple(maps.shape) != expected:
        raise DataError(
            f"saliency maps must be {expected}, one (1, H, W) per image at its resolution, found"
            f" {tuple(maps.shape)}; resize them with verisal.saliency.gates.masks.resize_maps"
        )


def pixel_ranks(maps: Tensor, *, order: Order = "most_relevant_first", block_size: int = 1) -> Tensor:
    """Place of every pixel in the order of removal, from 0.

    The sort is stable in both orders: equal pixels keep their row-major order. With a ``block_size`` above 1
    the image is cut into square cells from the upper left corner (narrower at the right and lower border);
    cells are ordered by the mean of their pixels, and the pixels of a cell follow each other in row-major
    order.

    Args:
        maps: ``(B, 1, H, W)``.
        order: which end of the map comes first.
        block_size: side of the cells in pixels.

    Returns:
        ``(B, 1, H, W)`` int32, a permutation of 0..H*W - 1 per map.

    Raises:
        ConfigError: an unknown order or a block size below 1.

    >>> maps = torch.tensor([[[[0.2, 0.9], [0.2, 0.1]]]])
    >>> pixel_ranks(maps).flatten().tolist()
    [1, 0, 2, 3]
    >>> pixel_ranks(maps, order="least_relevant_first").flatten().tolist()
    [1, 3, 2, 0]
    """
    if order not in ("most_relevant_first", "least_relevant_first"):
        raise ConfigError(f"order must be 'most_relevant_first' or 'least_relevant_first', found {order!r}")
    ranks = _ranks(_cells(maps, block_size).flatten(1), descending=order == "most_relevant_first")
    if block_size > 1:
        ranks = _ranks(ranks.gather(1, _cell_of_pixels(maps, block_size)), descending=False)
    return ranks.int().view(maps.shape)


def tied_share(maps: Tensor, *, block_size: int = 1) -> Tensor:
    """``(B,)``: share of the pixels (of the cells, if there are any) whose relevance another one has too.

    Their order says nothing about the map. Takes what :func:`pixel_ranks` takes.

    >>> tied_share(torch.tensor([[[[0.2, 0.9], [0.2, 0.1]]]])).tolist()
    [0.5]
    """
    ordered = _cells(maps, block_size).flatten(1).sort(dim=1).values
    same = ordered[:, 1:] == ordered[:, :-1]
    return (F.pad(same, (1, 0)) | F.pad(same, (0, 1))).float().mean(dim=1)


def removal_counts(pixels: int, steps: int) -> list[int]:
    """Numbers of changed pixels at the ``steps + 1`` points of a curve, both ends included.

    >>> removal_counts(10, 4)
    [0, 2, 5, 8, 10]
    """
    return [round(point * pixels / steps) for point in range(steps + 1)]


def _cells(maps: Tensor, block_size: int) -> Tensor:
    """``(B, h, w)``: mean over the pixels of every cell."""
    check_range(1, block_size=block_size)
    if block_size == 1:
        return maps[:, 0]
    return F.avg_pool2d(maps, block_size, ceil_mode=True)[:, 0]


def _cell_of_pixels(maps: Tensor, block_size: int) -> Tensor:
    """``(B, H*W)`` int64: number of each pixel's cell."""
    height, width = (torch.arange(size, device=maps.device) // block_size for size in maps.shape[2:])
    return (height[:, None] * (width[-1] + 1) + width).flatten().expand(len(maps), -1)


def _ranks(values: Tensor, *, descending: bool) -> Tensor:
    """``(B, n)`` int64: place of every value in a stable sort."""
    order = values.sort(dim=1, descending=descending, stable=True).indices
    places = torch.arange(values.shape[1], device=values.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


@dataclass(frozen=True)
class _Removals:
    """Removal of the pixels of rank below each of ``counts``, of ``ranks (B, 1, H, W)`` int32."""

    images: Tensor
    query_class: Tensor
    ranks: Tensor
    counts: Sequence[int]
    baseline: Baseline | Tensor


def _removal_results(
    classifier: Callable[[Tensor], Tensor],
    removals: _Removals,
    scored: Tensor,
    *,
    score: Literal["probability", "logit"],
    chunk_size: int,
) -> Tensor:
    """``(B, N, 2)``: score of the query class and 1 if it is predicted; NaN where not ``scored (B,)``.

    The versions of all images stand in one queue, image by image, so that only the last pass is not full.
    """
    if score not in ("probability", "logit"):
        raise ConfigError(f"score must be 'probability' or 'logit', found {score!r}")
    check_range(1, chunk_size=chunk_size)
    points = len(removals.counts)
    rows = scored.nonzero()[:, 0]
    queries = removals.query_class[rows].repeat_interleave(points)
    values = removals.images.new_empty(len(queries), 2)
    chunk_size = scored_at_once(chunk_size, removals.images)
    output = output_of(classifier)
    with scoring(classifier, removals.images.device):
        done = 0
        for batch in _batches(classifier, removals, rows.tolist(), chunk_size):
            logits = ask(classifier, batch, allow_nan=True).float()
            if done == 0:
                check_query_class(removals.query_class, len(removals.images), logits.shape[1])
            part = slice(done, done + len(batch))
            scores = logits if score == "logit" else probabilities(logits, output)
            values[part, 0] = scores.gather(1, queries[part, None])[:, 0]
            # The largest of logits that are not numbers is no prediction.
            predicted = decides_for(logits, queries[part], output).to(values.dtype)
            # Nothing is predicted by a score of its own.
            defined = ~logits.isnan().any(dim=1) & (output != "score")
            values[part, 1] = predicted.where(defined, torch.nan)
            done += len(batch)
    results = removals.images.new_full((len(removals.images), points, 2), torch.nan)
    results[rows] = values.view(-1, points, 2)
    return results


def _batches(
    classifier: Callable[[Tensor], Tensor], removals: _Removals, rows: Sequence[int], chunk_size: int
) -> Iterator[Tensor]:
    baseline, images = removals.baseline, removals.images
    if isinstance(baseline, Tensor):
        if baseline.shape != images.shape:
            raise DataError(
                f"baseline images must be shaped like the images, {tuple(images.shape)},"
                f" found {tuple(baseline.shape)}"
            )
        return _replaced(removals, baseline, rows, chunk_size)
    filled = bound(baseline, classifier)
    if filled.needs_mask:
        return _filled(removals, filled, rows, chunk_size)
    return _replaced(removals, filled(images, query_class=removals.query_class), rows, chunk_size)


def _replaced(removals: _Removals, fills: Tensor, rows: Sequence[int], chunk_size: int) -> Iterator[Tensor]:
    """Images whose removed pixels come from ``fills (B, C, H, W)``; every batch is written over the last."""
    # In one layout and one type, whatever the caller's: mixed ones are several times slower to blend.
    images, fills = removals.images.contiguous(), fills.contiguous()
    ranks = removals.ranks.to(images.dtype)
    limits = ranks.new_tensor(removals.counts).view(-1, 1, 1, 1)
    points, total = len(limits), len(rows) * len(limits)
    size = min(chunk_size, total)
    buffer, keep = images.new_empty(size, *images.shape[1:]), images.new_empty(size, *ranks.shape[1:])
    for start in range(0, total, chunk_size):
        stop = min(start + chunk_size, total)
        for place in range(start // points, (stop - 1) // points + 1):
            first, last = max(start - place * points, 0), min(stop - place * points, points)
            part = slice(place * points + first - start, place * points + last - start)
            torch.ge(ranks[rows[place]], limits[first:last], out=keep[part])
            # Exact at weights 0 and 1, and ten times as fast on a CPU as torch.where.
            torch.lerp(fills[rows[place]], images[rows[place]], keep[part], out=buffer[part])
        yield buffer[: stop - start]


def _filled(
    removals: _Removals, baseline: Baseline, rows: Sequence[int], chunk_size: int
) -> Iterator[Tensor]:
    """Images whose removed pixels are filled anew for every number of them."""
    index = torch.tensor(rows, device=removals.images.device).repeat_interleave(len(removals.counts))
    counts = torch.tensor(removals.counts, device=index.device).repeat(len(rows))
    for start in range(0, len(index), chunk_size):
        some = index[start : start + chunk_size]
        images = removals.images[some]
        keep = removals.ranks[some] >= counts[start : start + chunk_size].view(-1, 1, 1, 1)
        yield baseline(images, keep.to(images.dtype), query_class=removals.query_class[some])


def perturbation_curve(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: Tensor,
    query_class: Tensor,
    *,
    baseline: Baseline | Tensor,
    order: Order = "most_relevant_first",
    direction: Literal["remove", "insert"] = "remove",
    steps: int = 64,
    block_size: int = 1,
    score: Literal["probability", "logit"] = "probability",
    chunk_size: int = 32,
) -> tuple[Tensor, Tensor]:
    r"""Score of the query class at every share of changed pixels.

    At point :math:`k` the first :math:`n_k = \mathrm{round}(k H W / \mathrm{steps})` pixels of the order are
    changed: ``remove`` starts at the image and replaces them by the baseline, ``insert`` starts at the
    baseline and restores them. Removal in the order ``most_relevant_first`` is the deletion or MoRF curve, in
    the other order LeRF; ``insert`` with the most relevant first is the insertion curve.

    Args:
        classifier: gives logits ``(B, K)`` of images in [0, 1]; a module is put into eval mode meanwhile.
        images: ``(B, C, H, W)`` float32 in [0, 1].
        maps: ``(B, 1, H, W)`` saliency maps. Where one is constant or not finite, its scores are NaN and the
            classifier is not called.
        query_class: ``(B,)`` int64.
        baseline: what replaces removed pixels; or the baseline images themselves, ``(B, C, H, W)``.
        order: which pixels come first; see :func:`.pixel_ranks`.
        direction: whether pixels are removed or shown.
        steps: number of steps; the curve has one point more.
        block_size: pixels are changed in cells of this side. A cell is cut where a step ends inside it.
        score: what is kept of the logits.
        chunk_size: images per pass of the classifier; changes memory and speed only.

    Returns:
        Fractions ``(steps + 1,)`` float64, from 0 to 1, and scores ``(B, steps + 1)`` float32.

    Raises:
        ConfigError: a setting, a baseline or a query class that does not fit.
        DataError: images or maps that are none.

    References:
        petsiuk2018rise, samek2017

    Differs from:
        petsiuk2018rise: any image size, class count and batch; a step is a share of the pixels, and the last
        one ends at the fully changed image; trapezoid over true fractions.
        samek2017: pixels, or cells of any side, are replaced by any baseline, not by uniform noise alone.
    """
    check_range(1, steps=steps)
    if direction not in ("remove", "insert"):
        raise ConfigError(f"direction must be 'remove' or 'insert', found {direction!r}")
    check_images(images)
    check_maps(maps, images)
    pixels = images.shape[2] * images.shape[3]
    removed = changed = removal_counts(pixels, steps)
    ranks = pixel_ranks(maps, order=order, block_size=block_size)
    if direction == "insert":
        # What is shown first is missing last.
        ranks, removed = pixels - 1 - ranks, [pixels - count for count in changed]
    removals = _Removals(images, query_class, ranks, removed, baseline)
    results = _removal_results(classifier, removals, defined_maps(maps), score=score, chunk_size=chunk_size)
    fractions = torch.tensor(changed, dtype=torch.float64, device=images.device) / pixels
    return fractions, results[..., 0]


def removal_scores(
    classifier: Callable[[Tensor], Tensor],
    images: Tensor,
    maps: Tensor,
    query_class: Tensor,
    *,
    baseline: Baseline | Tensor,
    shares: Sequence[float],
    order: Order = "most_relevant_first",
    chunk_size: int = 32,
) -> tuple[Tensor, Tensor]:
    """Probability of the query class, and whether it is still predicted, with given shares of pixels removed.

    Args:
        classifier: as for :func:`perturbation_curve`, like all that is not listed.
        images: ``(B, C, H, W)`` float32 in [0, 1].
        maps: ``(B, 1, H, W)``; constant ones and those that are not finite give NaN, as for a curve.
        query_class: ``(B,)`` int64.
        baseline: what replaces removed pixels.
        shares: of the pixels, each in [0, 1]; rounded to whole pixels.
        order: which pixels come first.
        chunk_size: images per pass of the classifier.

    Returns:
        Probabilities and 0 or 1, both ``(B, S)`` float32.

    Raises:
        ConfigError: a share, a baseline or a query class that does not fit.
        DataError: images or maps that are none.

    References:
        rong2022road
    """
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ConfigError(f"shares must lie in [0, 1] and be at least one, found {list(shares)}")
    check_images(images)
    check_maps(maps, images)
    counts = [round(share * images.shape[2] * images.shape[3]) for share in shares]
    removals = _Removals(images, query_class, pixel_ranks(maps, order=order), counts, baseline)
    defined = defined_maps(maps)
    results = _removal_results(classifier, removals, defined, score="probability", chunk_size=chunk_size)
    return results[..., 0], results[..., 1]


def curve_area(fractions: Tensor, scores: Tensor) -> Tensor:
    """Area under each curve by trapezoid: ``(B,)`` float64 from fractions ``(N,)`` and scores ``(B, N)``.

    >>> curve_area(torch.tensor([0.0, 0.3, 1.0]), torch.tensor([[1.0, 0.7, 0.0]]))
    tensor([0.5000], dtype=torch.float64)
    """
    widths = fractions.double().diff()
    values = scores.double()
    return ((values[:, 1:] + values[:, :-1]) * widths).sum(dim=1) / 2


def normalised_curve_area(fractions: Tensor, scores: Tensor, *, clean: Tensor, removed: Tensor) -> Tensor:
    r"""Area of :math:`(p - p_\mathrm{removed}) / (p_\mathrm{clean} - p_\mathrm{removed})`.

    Args:
        fractions: ``(N,)``.
        scores: ``(B, N)``.
        clean: ``(B,)`` score of the image as it is: the first point of a removal, the last of an insertion.
        removed: ``(B,)`` score with every pixel removed.

    Returns:
        ``(B,)`` float64; NaN where the whole removal costs less than 0.05, so that there is no scale.
    """
    drop = (clean - removed).double()
    drop = torch.where(drop < _SMALLEST_DROP, torch.nan, drop)
    return (curve_area(fractions, scores) - removed.double()) / drop


def aopc(scores: Tensor) -> Tensor:
    r"""Mean drop over the points of a MoRF curve: :math:`\frac{1}{N+1} \sum_{k=0}^{N} (p(x_0) - p(x_k))`.

    Args:
        scores: ``(B, N + 1)``, the clean image first.

    Returns:
        ``(B,)`` float64.

    References:
        samek2017
    """
    values = scores.double()
    return values[:, 0] - values.mean(dim=1)
