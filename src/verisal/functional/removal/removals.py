"""Many versions of each image, with ever more pixels removed, through a classifier in chunks of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Baseline
from verisal.functional.baselines.plain import bound
from verisal.functional.outputs import ask, decides_for, output_of, probabilities
from verisal.functional.scoring import check_chunk_size, scoring
from verisal.types import check_query_class

__all__ = ["Removals", "removal_results"]


@dataclass(frozen=True)
class Removals:
    """What is removed from which images.

    Attributes:
        images: ``(B, 3, H, W)`` float32 in [0, 1].
        query_class: ``(B,)`` int64.
        ranks: ``(B, 1, H, W)`` int32; at a count of n the pixels of rank below n are removed.
        counts: N numbers of removed pixels.
        baseline: what replaces them, or the baseline images ``(B, 3, H, W)``.
    """

    images: Tensor
    query_class: Tensor
    ranks: Tensor
    counts: Sequence[int]
    baseline: Baseline | Tensor


def removal_results(
    classifier: Callable[[Tensor], Tensor],
    removals: Removals,
    scored: Tensor,
    *,
    score: Literal["probability", "logit"],
    chunk_size: int,
) -> Tensor:
    """``(B, N, 2)``: score of the query class and whether it is predicted; NaN where not ``scored (B,)``.

    The versions of all images stand in one queue, image by image, so that only the last pass is not full.

    Raises:
        ConfigError: a score, a chunk size, a query class or a baseline that does not fit.
        DataError: baseline images that do not fit the images.
    """
    if score not in ("probability", "logit"):
        raise ConfigError(f"score must be 'probability' or 'logit', found {score!r}")
    check_chunk_size(chunk_size)
    points = len(removals.counts)
    rows = scored.nonzero()[:, 0]
    queries = removals.query_class[rows].repeat_interleave(points)
    found = removals.images.new_empty(len(queries), 2)
    output = output_of(classifier)
    with scoring(classifier, removals.images.device):
        done = 0
        for batch in _batches(classifier, removals, rows.tolist(), chunk_size):
            logits = ask(classifier, batch, allow_nan=True).float()
            if done == 0:
                check_query_class(removals.query_class, len(removals.images), logits.shape[1])
            part = slice(done, done + len(batch))
            values = logits if score == "logit" else probabilities(logits, output)
            found[part, 0] = values.gather(1, queries[part, None])[:, 0]
            # The largest of logits that are not numbers is no prediction.
            predicted = decides_for(logits, queries[part], output).to(found.dtype)
            found[part, 1] = predicted.where(~logits.isnan().any(dim=1), torch.nan)
            done += len(batch)
    results = removals.images.new_full((len(removals.images), points, 2), torch.nan)
    results[rows] = found.view(-1, points, 2)
    return results


def _batches(
    classifier: Callable[[Tensor], Tensor], removals: Removals, rows: Sequence[int], chunk_size: int
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


def _chunks(rows: Sequence[int], points: int, chunk_size: int) -> Iterator[list[tuple[int, int, int]]]:
    """The queue, cut: each chunk is a list of (row, first point, one past the last)."""
    total = len(rows) * points
    for start in range(0, total, chunk_size):
        stop = min(start + chunk_size, total)
        yield [
            (rows[place], max(start - place * points, 0), min(stop - place * points, points))
            for place in range(start // points, (stop - 1) // points + 1)
        ]


def _replaced(removals: Removals, fills: Tensor, rows: Sequence[int], chunk_size: int) -> Iterator[Tensor]:
    """Images whose removed pixels come from ``fills (B, 3, H, W)``; every batch is written over the last."""
    # In one layout and one type, whatever the caller's: mixed ones are several times slower to blend.
    images, fills = removals.images.contiguous(), fills.contiguous()
    ranks = removals.ranks.to(images.dtype)
    limits = ranks.new_tensor(removals.counts).view(-1, 1, 1, 1)
    size = min(chunk_size, len(rows) * len(limits))
    buffer, keep = images.new_empty(size, *images.shape[1:]), images.new_empty(size, *ranks.shape[1:])
    for chunk in _chunks(rows, len(limits), chunk_size):
        end = 0
        for row, first, last in chunk:
            start, end = end, end + last - first
            torch.ge(ranks[row], limits[first:last], out=keep[start:end])
            # Exact at weights 0 and 1, and ten times as fast on a CPU as torch.where.
            torch.lerp(fills[row], images[row], keep[start:end], out=buffer[start:end])
        yield buffer[:end]


def _filled(removals: Removals, baseline: Baseline, rows: Sequence[int], chunk_size: int) -> Iterator[Tensor]:
    """Images whose removed pixels are filled anew for every number of them."""
    device = removals.images.device
    for chunk in _chunks(rows, len(removals.counts), chunk_size):
        index = torch.tensor([row for row, first, last in chunk for _ in range(first, last)], device=device)
        counts = [count for _, first, last in chunk for count in removals.counts[first:last]]
        limits = torch.tensor(counts, device=device).view(-1, 1, 1, 1)
        images = removals.images[index]
        keep = (removals.ranks[index] >= limits).to(images.dtype)
        yield baseline(images, keep, query_class=removals.query_class[index])
