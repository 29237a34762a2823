r"""Occlusion: how far the query's score falls when a window of the image is replaced.

.. math:: S_{ij} = \operatorname{mean}_{W \ni (i, j)}
    \bigl[ p_c(x) - p_c(\pi(x, b, 1 - 1_W)) \bigr]

over all windows *W* of a regular grid that cover the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from verisal._checks import as_tuples
from verisal.errors import ConfigError
from verisal.fingerprint import without_defaults
from verisal.functional.baselines import Baseline, DatasetMean
from verisal.saliency._base import Saliency, ScoreKind, explaining, signed_result
from verisal.saliency.perturbation.scores import PerturbedScores
from verisal.types import AnyClassifier, SaliencyResult, check_range


@final
@dataclass(frozen=True, kw_only=True)
class Occlusion(Saliency):
    """Mean fall of the score over the windows that cover a pixel.

    The attribution ``(B, 1, H, W)`` is signed, the map is its positive part. Windows start every ``stride``
    pixels; the last one in each direction is placed flush with the border, so that every pixel is covered.

    With ``refine`` windows that lie side by side, a window's side apart, come first. Of the others, an image
    is asked only about those with a neighbour among the first whose fall, up or down, is at least that share
    of its largest one; the rest take what lies between their neighbours. ``diagnostics`` of the result say
    how many ``windows`` each image took.

    With ``per_channel`` a window hides one channel at a time: the attribution is ``(B, C, H, W)``, the fall
    that each channel alone is worth, and the map its largest absolute value over the channels.

    Args:
        window: side, or (height, width), of the window in pixels.
        stride: pixels from one window to the next, at most the window's smaller side.
        baseline: the image that shows inside the window.
        score: ``probability`` or ``logit`` of the query class.
        chunk_size: perturbed images in one pass of the classifier, fewer above 256 x 256 pixels; bounds
            memory, never changes the result beyond float rounding. Fewer are passed when windows or images
            run out.
        per_channel: replace one channel at a time, for C times the passes.
        refine: share of the largest coarse fall, above 0 and at most 1; None for all windows.

    Raises:
        ConfigError: a share out of range, a window without area, a stride below 1 or beyond the window, a
            chunk size below 1; when called, a window larger than the image.

    References:
        zeiler2014

    Differs from:
        - The paper occludes with grey and shows the score itself; here the baseline image is a setting and
          the fall of the score is spread over the window's pixels.
        - The last window lies flush with the border instead of being cut off by it.
        - Windows that are left out are ours.
    """

    shares_passes = True

    window: int | tuple[int, int] = 16
    stride: int = 8
    baseline: Baseline = field(default_factory=DatasetMean)
    score: ScoreKind = "probability"
    chunk_size: int = 64
    per_channel: bool = False
    refine: float | None = None

    def __post_init__(self) -> None:
        as_tuples(self)
        if not isinstance(self.window, int) and len(self.window) != 2:
            raise ConfigError(f"window must be a side or (height, width) in pixels, found {self.window}")
        height, width = self._window
        if height < 1 or width < 1:
            raise ConfigError(
                f"window must be at least 1 px high and wide, found {height} x {width} px; the default is 16"
            )
        if not 1 <= self.stride <= min(height, width):
            raise ConfigError(
                f"stride must lie between 1 and the window's smaller side ({min(height, width)} px), so that"
                f" no pixel is left out; found {self.stride}"
            )
        check_range(1, chunk_size=self.chunk_size)
        check_range(0, 1, above=True, refine=self.refine)

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """Signed falls in ``attribution``, their positive part in ``saliency`` and ``raw``."""
        with explaining(classifier, images, query_class) as (copies, query), torch.no_grad():
            rows, columns = self._indicators(copies)
            scores = PerturbedScores(
                classifier,
                copies,
                query,
                baseline=self.baseline,
                score=self.score,
                chunk_size=self.chunk_size,
            )
            channels: list[int | None] = list(range(copies.shape[1])) if self.per_channel else [None]
            windows = _Windows(scores, rows, columns)
            # A window is a product of two intervals, so the sum over windows is two matrix products.
            covered = rows.sum(dim=0)[:, None] * columns.sum(dim=0)
            attribution = copies.new_empty(len(copies), len(channels), *copies.shape[-2:])
            for place, channel in enumerate(channels):
                if self.refine is None:
                    grid = windows.falls(rows, columns, channel)
                else:
                    grid = windows.refined(self.refine, self._spacing, channel)
                attribution[:, place] = rows.T @ grid @ columns / covered
        passes = float(windows.taken.double().mean()) + 1
        result = signed_result(attribution, n_forward=passes, baseline=scores.baseline_name)
        return replace(result, diagnostics={"windows": windows.taken})

    def _decisive(self) -> dict[str, Any]:
        return without_defaults(super()._decisive(), per_channel=False, refine=None)

    @property
    def _spacing(self) -> int:
        """Strides from one coarse window to the next: as many as leave no pixel between them."""
        return min(self._window) // self.stride

    @property
    def _window(self) -> tuple[int, int]:
        return (self.window, self.window) if isinstance(self.window, int) else self.window

    def _indicators(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``(n_rows, H)`` and ``(n_columns, W)``: 1 where the window of that row or column lies."""
        height, width = images.shape[-2:]
        if self._window[0] > height or self._window[1] > width:
            raise ConfigError(
                f"window must fit the image of {height} x {width} px, found"
                f" {self._window[0]} x {self._window[1]} px; choose a smaller window"
            )
        rows = _intervals(height, self._window[0], self.stride, images)
        return rows, _intervals(width, self._window[1], self.stride, images)


class _Windows:
    """Falls of the score of every image behind windows, rows (n_rows, H) times columns (n_columns, W)."""

    def __init__(self, scores: PerturbedScores, rows: Tensor, columns: Tensor) -> None:
        self._scores, self._rows, self._columns = scores, rows, columns
        self._clean = scores.clean()
        self.taken = torch.zeros(len(self._clean), dtype=torch.int64, device=rows.device)
        """``(B,)``: windows that each image took."""

    def falls(self, rows: Tensor, columns: Tensor, channel: int | None) -> Tensor:
        """``(B, n_rows, n_columns)``, of windows that all images take."""
        count, at_once = len(rows) * len(columns), self._scores.masks_per_pass
        falls = rows.new_empty(count, len(self._clean))
        for start in range(0, count, at_once):
            some = torch.arange(start, min(start + at_once, count), device=rows.device)
            falls[some] = self._clean - self._scores(self._outside(rows, columns, some), channel)
        self.taken += count
        return falls.T.reshape(-1, len(rows), len(columns))

    def refined(self, share: float, spacing: int, channel: int | None) -> Tensor:
        """The same of all windows, of which each image takes the coarse ones and those near large falls."""
        down, across = (_coarse(len(axis), spacing, axis) for axis in (self._rows, self._columns))
        rows, columns = (
            axis[part.amax(dim=1) == 1] for axis, part in ((self._rows, down), (self._columns, across))
        )
        coarse = self.falls(rows, columns, channel)
        grid = down @ coarse @ across.T
        size = coarse.abs()
        near = torch.stack([size[:, one > 0].amax(dim=1) for one in down], dim=1)
        near = torch.stack([near[..., one > 0].amax(dim=2) for one in across], dim=2)
        known = (down.amax(dim=1) == 1)[:, None] & (across.amax(dim=1) == 1)
        wanted = (near >= share * size.amax(dim=(1, 2), keepdim=True)) & ~known
        asked = wanted.flatten(1).nonzero()
        for some in torch.split(asked, self._scores.at_once) if len(asked) else ():
            image, window = some.unbind(dim=1)
            masks = self._outside(self._rows, self._columns, window)
            grid.flatten(1)[image, window] = self._clean[image] - self._scores.pairs(masks, image, channel)
        self.taken += wanted.flatten(1).sum(dim=1)
        return grid

    @staticmethod
    def _outside(rows: Tensor, columns: Tensor, some: Tensor) -> Tensor:
        """Masks ``(n, 1, H, W)``: 0 inside the windows of these numbers, 1 elsewhere."""
        down = torch.div(some, len(columns), rounding_mode="floor")
        inside = rows[down][:, :, None] * columns[some % len(columns)][:, None, :]
        return 1 - inside[:, None]


def _coarse(count: int, spacing: int, like: Tensor) -> Tensor:
    """``(count, n)``: weights of every ``spacing``-th of ``count`` places, and of the last, in each place.

    Linear between two of them, and 1 where one of them stands.
    """
    places = torch.tensor([*range(0, count - 1, spacing), count - 1], device=like.device)
    each = torch.arange(count, device=like.device)
    right = torch.searchsorted(places, each)
    left = (right - 1).clamp_min(0)
    share = (places[right] - each) / (places[right] - places[left]).clamp_min(1)
    weights = like.new_zeros(count, len(places))
    weights[each, left] = share.to(like)
    weights[each, right] = (1 - share).to(like)
    return weights


def _intervals(length: int, side: int, stride: int, like: Tensor) -> Tensor:
    """``(n, length)``: 1 inside each interval of ``side`` pixels; the last one ends at the border."""
    starts = [*range(0, length - side, stride), length - side]
    first = torch.tensor(starts, device=like.device)[:, None]
    pixels = torch.arange(length, device=like.device)
    return ((pixels >= first) & (pixels < first + side)).to(like.dtype)
