r"""RISE: the mean of random smooth masks, weighted by the score that each leaves.

.. math:: S = \frac{1}{N p} \sum_{n=1}^{N} p_c(\pi(x, b, m_n))\, m_n

where the mean of every mask's pixel is *p*.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, final, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.errors import ConfigError
from verisal.fingerprint import without_defaults
from verisal.functional.baselines import Baseline, DatasetMean
from verisal.progress import progress_bar
from verisal.saliency._base import Saliency, ScoreKind, explaining, signed_result
from verisal.saliency.perturbation.designs import LARGEST_SOBOL_CELLS, Sampling, array_order, mask_blocks
from verisal.saliency.perturbation.halves import split_half_noise
from verisal.saliency.perturbation.scores import PerturbedScores
from verisal.types import AnyClassifier, SaliencyResult, check_range


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

    The masks depend on seed, sampling, cells, keep probability and image size alone: all images of a batch,
    and all batches, see the same ones, in the same order. Beyond the centres of a grid's outermost cells a
    mask keeps their value.

    ``diagnostics`` of the result say for each image how many ``masks`` it took and the ``noise`` of its
    attribution, by :func:`.split_half_noise` of the masks of even and of odd number.

    With ``per_channel`` every mask acts on one channel at a time. The attribution is then ``(B, C, H, W)``,
    with the score above that of the image whose whole channel is replaced: the others keep most of the score
    whatever the mask, and a channel without use would otherwise have the largest attribution. The map is the
    largest absolute value over the channels.

    Args:
        cells: s, cells along each side of a grid.
        keep_probability: p, with which a cell is kept.
        masks: N, the largest number where ``until`` is given.
        baseline: the image that shows where a mask removes.
        seed: of the masks.
        score: ``probability`` or ``logit`` of the query class.
        chunk_size: perturbed images in one pass of the classifier, fewer above 256 x 256 pixels; bounds
            memory whatever ``masks`` is, never changes the result beyond float rounding.
        per_channel: mask one channel at a time, for C times the passes, and one more per channel.
        sampling: design of the masks, as of :func:`.mask_blocks`: ``plain`` for independent ones as
            published; ``orthogonal`` and ``sobol`` estimate the same map with far less noise. Orthogonal
            masks are blocks of 128 for the 7 cells, and keep one half.
        until: noise at which an image is done, above 0 and at most 1; None for all masks. Asked of each image
            after every block: of 256 plain masks, of 128 of ``sobol``, of two arrays of ``orthogonal``.
        progress: show a bar with the noise of the current maps on a terminal, a line now and then elsewhere.

    Raises:
        ConfigError: settings out of range; orthogonal masks that keep another share than one half, or fewer
            than one block of them; when called, more cells than pixels.

    References:
        petsiuk2018rise, hedayat1999orthogonal, owen1998scrambling

    Differs from:
        - The authors multiply the normalised image by the mask, which is the baseline ``dataset_mean``; any
          other is a setting here.
        - Their resizing mirrors at the border of the grid; ours repeats the outermost cell.
        - With logits the sum may be negative: it is the attribution, and the map is its positive part.
        - Masks of one channel, designs of masks and the stop at a noise are ours.
    """

    shares_passes = True

    cells: int = 7
    keep_probability: float = 0.5
    masks: int = 4000
    baseline: Baseline = field(default_factory=DatasetMean)
    seed: int = 0
    score: ScoreKind = "probability"
    chunk_size: int = 64
    per_channel: bool = False
    sampling: Sampling = "plain"
    until: float | None = None
    progress: bool = field(default=False, compare=False)

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
        check_range(0, 1, above=True, until=self.until)
        self._check_sampling()

    def _check_sampling(self) -> None:
        if self.sampling not in get_args(Sampling):
            raise ConfigError(f"sampling must be one of {get_args(Sampling)}, found {self.sampling!r}")
        if self.sampling == "sobol" and self.cells > LARGEST_SOBOL_CELLS:
            raise ConfigError(
                f"a Sobol sequence has dimensions for at most {LARGEST_SOBOL_CELLS} cells along a side, found"
                f" cells={self.cells}; choose fewer, or sampling plain"
            )
        if self.sampling != "orthogonal":
            return
        if self.keep_probability != 0.5:
            raise ConfigError(
                "orthogonal masks keep one half of the cells, found"
                f" keep_probability={self.keep_probability}; set it to 0.5, or choose sampling sobol"
            )
        if self.masks < (block := 2 * array_order(self.cells)):
            raise ConfigError(
                f"orthogonal masks of cells={self.cells} come in blocks of {block}, found masks={self.masks};"
                " ask for at least one block, or choose sampling sobol"
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
            sums = _Sums(copies, scores, channels)
            self._sample(sums, (copies.shape[-2], copies.shape[-1]))
            attribution = sums.total
            if self.until is None:
                attribution /= self.masks * self.keep_probability
            else:
                attribution /= (sums.taken * self.keep_probability)[:, None]
            attribution = attribution.transpose(0, 1).reshape(len(copies), len(channels), *copies.shape[-2:])
        extra = len(channels) if self.per_channel else 0
        passes = len(channels) * float(sums.taken.double().mean()) + extra
        result = signed_result(attribution, n_forward=passes, baseline=scores.baseline_name)
        return replace(result, diagnostics={"masks": sums.taken, "noise": sums.noise})

    def _decisive(self) -> dict[str, Any]:
        settings = super()._decisive()
        del settings["progress"]
        return without_defaults(settings, per_channel=False, sampling="plain", until=None)

    def _sample(self, sums: _Sums, size: tuple[int, int]) -> None:
        """Block after block, until all masks are taken or every image is done."""
        steps = cell_size(self.cells, size)
        blocks = mask_blocks(
            self.sampling,
            cells=self.cells,
            keep_probability=self.keep_probability,
            seed=self.seed,
            steps=steps,
        )
        count = len(sums.taken)
        with progress_bar("RISE", self.masks * count, done=0, shown=self.progress) as advance:
            done = 0
            while done < self.masks and len(sums.rows):
                cells, shifts = (part[: self.masks - done] for part in next(blocks))
                sums.add(cells, shifts, size)
                done += len(cells)
                finished = len(cells) * len(sums.rows)
                if self.until is not None or self.progress:
                    sums.measure()
                    note = f"noise {float(sums.noise.max()):.3f}"
                    if self.until is not None and done < self.masks:
                        finished += (self.masks - done) * sums.retire(self.until)
                    advance(finished, note)
            sums.measure()


class _Sums:
    """Sums over the masks so far, of all and of those of even number, of the images that are not done.

    Attributes:
        total: ``(C, B, H * W)``, scores times masks.
        taken: ``(B,)`` int64, masks of each image.
        noise: ``(B,)``, of the attribution at the last :meth:`measure`.
        rows: numbers of the images that are not done.
    """

    def __init__(self, images: Tensor, scores: PerturbedScores, channels: list[int | None]) -> None:
        count, device = len(images), images.device
        self._scores, self._channels = scores, channels
        self.total = images.new_zeros(len(channels), count, images[0:1, 0].numel())
        self._even = torch.zeros_like(self.total)
        self.taken = torch.zeros(count, dtype=torch.int64, device=device)
        self.noise = torch.full((count,), torch.nan, device=device)
        self.rows = torch.arange(count, device=device)
        self._floors = images.new_zeros(len(channels), count)
        if channels != [None]:
            nothing = images.new_zeros(1, 1, *images.shape[-2:])
            self._floors = torch.cat([scores(nothing, channel) for channel in channels])

    def add(self, cells: Tensor, shifts: Tensor, size: tuple[int, int]) -> None:
        """Scores of the images that are not done, under the masks of these grids."""
        cells, shifts = cells.to(self.total), shifts.to(self.total.device)
        at_once, before = self._scores.masks_per_pass, int(self.taken[self.rows[0]])
        for start in range(0, len(cells), at_once):
            some = slice(start, start + at_once)
            masks = upsample_cells(cells[some], shifts[some], size)
            flat = masks.flatten(1)
            even = slice((before + start) % 2, None, 2)
            for place, channel in enumerate(self._channels):
                values = (self._scores(masks, channel) - self._floors[place, self.rows]).T
                self.total[place].index_add_(0, self.rows, values @ flat)
                self._even[place].index_add_(0, self.rows, values[:, even] @ flat[even])
        self.taken[self.rows] += len(cells)

    def measure(self) -> None:
        """Set the noise of the images that are not done."""
        if not len(self.rows):
            return
        taken = int(self.taken[self.rows[0]])
        counts = (taken - taken // 2, taken // 2)
        even = self._even[:, self.rows].transpose(0, 1)
        odd = self.total[:, self.rows].transpose(0, 1) - even
        self.noise[self.rows] = split_half_noise(even / counts[0], odd / max(1, counts[1]), counts)

    def retire(self, until: float) -> int:
        """Leave out the images whose noise is that small, from now on; their number."""
        going = ~(self.noise[self.rows] <= until)
        before = len(self.rows)
        if not going.all():
            self.rows = self.rows[going]
            self._scores = self._scores.of(going)
        return before - len(self.rows)
