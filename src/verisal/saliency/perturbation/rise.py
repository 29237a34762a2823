r"""RISE: the mean of random smooth masks, weighted by the score that each leaves.

.. math:: S = \frac{1}{N p} \sum_{n=1}^{N} p_c(\pi(x, b, m_n))\, m_n

where the mean of every mask's pixel is *p*.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, DatasetMean
from verisal.functional.seeding import derive_seed
from verisal.saliency._base import Saliency, ScoreKind, explaining, signed_result
from verisal.saliency.perturbation.occlusion import PerturbedScores, without_default
from verisal.types import AnyClassifier, SaliencyResult

# Masks that share a generator. Fixed, so that mask n is the same whatever the chunk size and the mask count.
_BLOCK = 256


def cell_size(cells: int, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width in pixels, rounded up, of one cell when ``cells`` of them span ``size`` (H, W)."""
    if not 1 <= cells <= min(size):
        raise ConfigError(
            f"cells must lie between 1 and the image's smaller side, found cells={cells} for an image of"
            f" {size[0]} x {size[1]} px"
        )
    return -(-size[0] // cells), -(-size[1] // cells)


def upsample_cells(
    cells: Tensor, shifts: Tensor, size: tuple[int, int], *, out: Tensor | None = None
) -> Tensor:
    r"""Grids of cells enlarged to one cell more than the image, shifted and cropped to it.

    A grid is resized bilinearly to :math:`(s + 1) \lceil H / s \rceil` by
    :math:`(s + 1) \lceil W / s \rceil` pixels, and the window of the image's size that starts at the grid's
    shift is kept. Resizing is linear along each axis, so that a mask is :math:`R\,G\,C^\top` with rows of two
    small matrices that the shift selects: resizing, shift and crop of all grids are two batched products.

    Border rule: pixel centres, as ``align_corners=False``; beyond the centres of the outermost cells their
    value stays.

    Args:
        cells: ``(N, s, s)`` float, usually 0 or 1.
        shifts: ``(N, 2)`` int64 on the same device, rows and columns, from 0 to one less than the cell size
            (see :func:`cell_size`).
        size: (H, W) in pixels.
        out: ``(N, 1, H, W)`` contiguous, filled and returned instead of a new tensor; it spares the memory of
            large masks being mapped anew each time.

    Returns:
        ``(N, 1, H, W)``, within the range of the cells.
    """
    count, side = len(cells), cells.shape[-1]
    heights, widths = cell_size(side, size)
    rows = _windows(side, heights, size[0], cells)[shifts[:, 0]]
    columns = _windows(side, widths, size[1], cells)[shifts[:, 1]]
    masks = cells.new_empty(count, 1, *size) if out is None else out
    torch.bmm(rows.transpose(1, 2), torch.bmm(cells, columns), out=masks.view(count, *size))
    return masks


def _windows(side: int, cell: int, length: int, like: Tensor) -> Tensor:
    """``(cell, side, length)``: for every shift, each cell's weight in each pixel of one axis; a view."""
    axis = torch.eye(side, device=like.device, dtype=like.dtype)[None]
    enlarged = F.interpolate(axis, size=(side + 1) * cell, mode="linear", align_corners=False)[0]
    return enlarged.unfold(1, length, 1).transpose(0, 1)


@final
@dataclass(frozen=True, kw_only=True)
class RISE(Saliency):
    """Score-weighted mean of random masks that are smooth upsampled grids of cells.

    The masks depend on seed, cells, keep probability and image size alone: all images of a batch, and all
    batches, see the same ones. Beyond the centres of a grid's outermost cells a mask keeps their value.

    With ``per_channel`` every mask acts on one channel at a time. The attribution is then ``(B, C, H, W)``,
    with the score above that of the image whose whole channel is replaced: the others keep most of the score
    whatever the mask, and a channel without use would otherwise have the largest attribution. The map is the
    largest absolute value over the channels.

    Args:
        cells: s, cells along each side of a grid.
        keep_probability: p, with which a cell is kept.
        masks: N.
        baseline: the image that shows where a mask removes.
        seed: of the masks.
        score: ``probability`` or ``logit`` of the query class.
        chunk_size: perturbed images in one pass of the classifier, fewer above 256 x 256 pixels; bounds
            memory whatever ``masks`` is, never changes the result beyond float rounding.
        per_channel: mask one channel at a time, for C times the passes, and one more per channel.

    Raises:
        ConfigError: settings out of range; when called, more cells than pixels.

    References:
        petsiuk2018rise

    Differs from:
        - The authors multiply the normalised image by the mask, which is the baseline ``dataset_mean``; any
          other is a setting here.
        - Their resizing mirrors at the border of the grid; ours repeats the outermost cell.
        - With logits the sum may be negative: it is the attribution, and the map is its positive part.
        - Masks of one channel are ours.
    """

    cells: int = 7
    keep_probability: float = 0.5
    masks: int = 4000
    baseline: Baseline = field(default_factory=DatasetMean)
    seed: int = 0
    score: ScoreKind = "probability"
    chunk_size: int = 64
    per_channel: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.keep_probability <= 1:
            raise ConfigError(
                f"keep_probability must lie above 0 and not above 1, found {self.keep_probability}"
            )
        if self.cells < 1 or self.masks < 1 or self.chunk_size < 1:
            raise ConfigError(
                "cells, masks and chunk_size must be at least 1, found"
                f" cells={self.cells}, masks={self.masks}, chunk_size={self.chunk_size}"
            )

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """The weighted mean in ``attribution``, its positive part in ``saliency`` and ``raw``."""
        with explaining(classifier, images, query_class) as (copies, query), torch.no_grad():
            scores = PerturbedScores(
                classifier,
                copies,
                query,
                baseline=self.baseline,
                score=self.score,
                chunk_size=self.chunk_size,
            )
            channels: list[int | None] = list(range(copies.shape[1])) if self.per_channel else [None]
            total = copies.new_zeros(len(channels), len(copies), copies[0:1, 0].numel())
            floors = copies.new_zeros(len(channels), len(copies))
            if self.per_channel:
                nothing = copies.new_zeros(1, 1, *copies.shape[-2:])
                floors = torch.cat([scores(nothing, channel) for channel in channels])
            for masks in self._masks(copies, scores.masks_per_pass):
                for place, channel in enumerate(channels):
                    total[place] += (scores(masks, channel) - floors[place]).T @ masks.flatten(1)
            total /= self.masks * self.keep_probability
            attribution = total.transpose(0, 1).reshape(len(copies), len(channels), *copies.shape[-2:])
        passes = len(channels) * (self.masks + 1) if self.per_channel else self.masks
        return signed_result(attribution, n_forward=passes, baseline=scores.baseline_name)

    def _decisive(self) -> dict[str, Any]:
        return without_default(super()._decisive())

    def _masks(self, images: Tensor, at_once: int) -> Iterator[Tensor]:
        """All N masks, ``(n, 1, H, W)`` with n at most ``at_once``, on the device of the images."""
        height, width = images.shape[-2:]
        steps = cell_size(self.cells, (height, width))
        for first in range(0, self.masks, _BLOCK):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "rise", first))
            shape = (_BLOCK, self.cells, self.cells)
            kept = torch.rand(shape, generator=generator) < self.keep_probability
            shifts = torch.stack(
                [torch.randint(step, (_BLOCK,), generator=generator) for step in steps], dim=1
            )
            count = min(_BLOCK, self.masks - first)
            cells, shifts = kept[:count].to(images), shifts[:count].to(images.device)
            for start in range(0, count, at_once):
                some = slice(start, start + at_once)
                yield upsample_cells(cells[some], shifts[some], (height, width))
