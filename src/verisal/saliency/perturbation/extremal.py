r"""Extremal perturbation: the smooth mask of a given area that keeps, or removes, most of the query's logit.

.. math:: \max_m \; f_c(\mathrm{pert}(x, m)) - \lambda \, \mathrm{mean} (\mathrm{vecsort}(m) - r_a)^2
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor

from verisal._checks import as_tuples
from verisal.errors import ConfigError
from verisal.fingerprint import without_defaults
from verisal.functional.baselines import Baseline, bound
from verisal.functional.outputs import ask
from verisal.progress import Advance, progress_bar
from verisal.saliency._base import Saliency, explaining, known_query_score, query_score
from verisal.saliency.perturbation.meaningful import Replacement, check_grid, replacement
from verisal.saliency.perturbation.smooth_masks import (
    area_deviation,
    blur_pyramid,
    pyramid_blend,
    smooth_max,
    smooth_max_weights,
)
from verisal.types import AnyClassifier, SaliencyResult, check_range

_TINY = 1e-12

Variant = Literal["preserve", "delete", "dual"]
_MOMENTUM = 0.9
_WINDOW = 50
"""Steps over which the change of a mask is measured."""


@final
@dataclass(frozen=True, kw_only=True)
class ExtremalPerturbation(Saliency):
    """Per-image optimisation of masks of fixed areas; all images and areas are learned in one batch.

    Lengths are for images of 224 px and scale with ``min(H, W) / 224``; :meth:`sizes` gives those used.

    Args:
        areas: shares of the image's pixels, rising, each in (0, 1].
        variant: ``preserve`` raises the logit of the image that shows only the mask, ``delete`` lowers
            that of the image without it, ``dual`` does both at once.
        steps: of gradient ascent with momentum and dampening 0.9.
        learning_rate: of it.
        area_weight: lambda of the first step.
        area_growth: factor on lambda per step.
        grid_step: pixels between the cells of the mask.
        sigma: reach of a cell, in pixels.
        baseline: what replaces removed pixels; None for a pyramid of blurs of the image, named
            ``blur_pyramid``, in which a mask value picks how much is blurred away.
        pyramid_levels: levels of the pyramid, the image itself included, at least 2.
        pyramid_sigma: largest blur of the pyramid, in pixels.
        chunk_size: masks (images times areas) learned at once; bounds memory, never changes the result beyond
            float rounding.
        until: change at which a mask is done, above 0: the L2 distance to the mask of 50 steps before, over
            its own norm. Asked of each mask after every 50 steps; None for all steps.
        progress: show a bar with the largest change on a terminal, a line now and then elsewhere.

    ``diagnostics`` of the result say for each image how many ``steps`` its masks took, in the mean over the
    areas, and the largest ``change`` of one over its last full 50 steps; NaN for fewer.

    Raises:
        ConfigError: values out of range, areas that do not rise.

    References:
        fong2019extremal

    Differs from:
        - The soft-max pooling of the mask is a convolution on the grid of cells, within 1e-4 of the formula.
        - Of the sorted mask only the threshold is found; pixels near it, within 0.01 and fading out to 0.02,
          share the rest of the area, where a sort orders equal pixels by chance. The slope between levels of
          the pyramid changes over 0.04 levels. Both keep the gradient continuous, and rounding small.
        - The area is a share of the image. As published, it is counted on a plane that reaches sigma beyond,
          so that the border is no cheaper than the inside; masks of areas near 1 fade towards the border.
        - Cells are centred on the image, where the published grid starts at its first pixel.
        - Blurs reflect the border and act before the classifier normalises.
        - The map of several areas is the mean of their masks, a constant factor from the sum.
        - The stop at a change is ours.
    """

    areas: tuple[float, ...] = (0.1,)
    variant: Variant = "preserve"
    steps: int = 800
    learning_rate: float = 0.01
    area_weight: float = 300.0
    area_growth: float = 1.0035
    grid_step: int = 7
    sigma: float = 21.0
    baseline: Baseline | None = None
    pyramid_levels: int = 8
    pyramid_sigma: float = 20.0
    chunk_size: int = 16
    until: float | None = None
    progress: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        as_tuples(self)
        rising = all(low < high for low, high in zip(self.areas, self.areas[1:], strict=False))
        if not self.areas or not rising or not 0 < self.areas[0] <= self.areas[-1] <= 1:
            raise ConfigError(
                f"areas must be one or more different shares in (0, 1], rising; found {self.areas}"
            )
        if self.variant not in get_args(Variant):
            raise ConfigError(f"variant must be one of {get_args(Variant)}, found {self.variant!r}")
        check_range(1, steps=self.steps, chunk_size=self.chunk_size, grid_step=self.grid_step)
        check_range(2, pyramid_levels=self.pyramid_levels)
        check_range(
            0, above=True, learning_rate=self.learning_rate, area_growth=self.area_growth, sigma=self.sigma
        )
        check_range(0, area_weight=self.area_weight, pyramid_sigma=self.pyramid_sigma)
        check_range(0, above=True, until=self.until)

    def _decisive(self) -> dict[str, Any]:
        settings = super()._decisive()
        del settings["progress"]
        return without_defaults(settings, until=None)

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """Mean of the masks of all areas, in [0, 1], in ``saliency`` and ``raw``."""
        learned = self._learned(classifier, images, query_class)
        saliency = learned.masks.mean(dim=1, keepdim=True)
        each = 2 if self.variant == "dual" else 1
        passes = float(learned.steps.double().sum(dim=1).mean()) * each
        baseline = "blur_pyramid" if self.baseline is None else bound(self.baseline, classifier).name
        return SaliencyResult(
            saliency,
            saliency,
            n_forward=passes,
            n_backward=passes,
            baseline=baseline,
            diagnostics={
                "steps": learned.steps.double().mean(dim=1),
                # Of several areas the one that was least at rest.
                "change": learned.change.amax(dim=1),
            },
        )

    def masks(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> Tensor:
        """One mask per image and area, ``(B, A, H, W)`` in [0, 1]; 1 is the evidence.

        Raises:
            ConfigError: a query class that does not fit, an image too small for the grid, a baseline that
                lacks something.
        """
        return self._learned(classifier, images, query_class).masks

    def _learned(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> _Learned:
        with explaining(classifier, images, query_class) as (pixels, query):
            height, width = pixels.shape[-2:]
            sizes = self.sizes(height, width)
            weights = smooth_max_weights(int(sizes["grid_step"]), sizes["sigma"]).to(pixels.device)
            baseline = None if self.baseline is None else bound(self.baseline, classifier)
            # Area by area, so that masks of one area lie together.
            rows = torch.arange(len(self.areas) * len(pixels), device=pixels.device)
            # Without it, a cell at the border would cost less area than one inside, and keep it.
            margin = math.ceil(sizes["sigma"])
            parts: list[_Learned] = []
            with progress_bar(
                type(self).__name__, self.steps * len(rows), done=0, shown=self.progress
            ) as advance:
                for chunk in torch.split(rows, self.chunk_size):
                    areas = [self.areas[row] for row in (chunk // len(pixels)).tolist()]

                    def reward(some: Tensor, chunk: Tensor = chunk) -> _Reward:
                        """Of some of the rows of the chunk."""
                        places = chunk[some] % len(pixels)
                        shown, asked = pixels[places], query[places]
                        replace = self._replacement(baseline, shown, asked, sizes["pyramid_sigma"])
                        return _Reward(classifier, asked, replace, self.variant)

                    parts.append(self._optimise(reward, areas, weights, (height, width), margin, advance))
        shape = len(self.areas), len(images)
        masks = torch.cat([part.masks for part in parts]).view(*shape, height, width)
        steps, change = (
            torch.cat([getattr(part, name) for part in parts]).view(shape).T for name in ("steps", "change")
        )
        # Averages of values in [0, 1], up to rounding.
        return _Learned(masks.transpose(0, 1).clamp(0, 1).contiguous(), steps, change)

    def sizes(self, height: int, width: int) -> dict[str, float]:
        """``grid_step``, ``sigma`` and ``pyramid_sigma`` in pixels of an image of this size.

        Raises:
            ConfigError: the mask would have fewer than two cells along an axis.
        """
        scale = min(height, width) / 224
        cell = max(1, round(self.grid_step * scale))
        check_grid(cell, height, width, f"grid_step={self.grid_step}")
        return {"grid_step": cell, "sigma": self.sigma * scale, "pyramid_sigma": self.pyramid_sigma * scale}

    def _replacement(
        self, baseline: Baseline | None, images: Tensor, query: Tensor, max_sigma: float
    ) -> Replacement:
        if baseline is not None:
            return replacement(baseline, images, query)
        pyramid = blur_pyramid(images, levels=self.pyramid_levels, max_sigma=max_sigma)
        return lambda masks: pyramid_blend(pyramid, masks)

    def _optimise(
        self,
        reward_of: Callable[[Tensor], _Reward],
        areas: Sequence[float],
        weights: Tensor,
        size: tuple[int, int],
        margin: int,
        advance: Advance,
    ) -> _Learned:
        """Masks ``(N, 1, H, W)``, one for each of ``areas``, equal ones side by side."""
        step = math.isqrt(len(weights) // 2)
        counts = [max(1, math.ceil(area * size[0] * size[1] - 1e-6)) for area in areas]
        cells = weights.new_ones(len(areas), 1, math.ceil(size[0] / step), math.ceil(size[1] / step))
        going = torch.arange(len(areas), device=cells.device)
        reward = reward_of(going)
        learned = _Learned(
            cells.new_zeros(len(areas), 1, *size),
            torch.full_like(going, self.steps),
            torch.full_like(cells[:, 0, 0, 0], torch.nan),
        )
        velocity, before = torch.zeros_like(cells), torch.zeros_like(learned.masks)
        # Known until some leave: each of them is a wait for the device.
        runs, note = _runs(counts, going), ""
        for index in range(self.steps):
            cells.requires_grad_()
            plane = smooth_max(cells, weights, step=step, size=size, margin=margin)
            parts = torch.split(plane, [length for _, length in runs])
            deviation = torch.cat(
                [area_deviation(part, count) for part, (count, _) in zip(parts, runs, strict=True)]
            )
            penalty = self.area_weight * self.area_growth**index * deviation
            masks = plane[:, :, margin : margin + size[0], margin : margin + size[1]]
            objective = reward(masks, flipped=index % 2 == 0, first=index == 0) - penalty
            (gradient,) = torch.autograd.grad(objective.sum(), cells)
            velocity = gradient if index == 0 else _MOMENTUM * velocity + (1 - _MOMENTUM) * gradient
            cells = (cells.detach() + self.learning_rate * velocity).clamp(0, 1)
            advance(len(going), note)
            done = index + 1
            if done % _WINDOW and done < self.steps:
                continue
            now = smooth_max(cells, weights, step=step, size=size)
            learned.masks[going] = now
            if done % _WINDOW == 0:
                if done > _WINDOW:
                    moved = (now - before).flatten(1).norm(dim=1)
                    learned.change[going] = moved / now.flatten(1).norm(dim=1).clamp_min(_TINY)
                    note = learned.note()
                before = now
            if self.until is None or done == self.steps:
                continue
            stay = ~(learned.change[going] <= self.until)
            if not bool(stay.all()):
                learned.steps[going[~stay]] = done
                advance((self.steps - done) * int((~stay).sum()), note)
                going, cells, velocity, before = (part[stay] for part in (going, cells, velocity, before))
                if not len(going):
                    break
                reward, runs = reward_of(going), _runs(counts, going)
        return learned


def _runs(counts: Sequence[int], going: Tensor) -> list[tuple[int, int]]:
    """Pixels of the masks that are left, and how many of each number stand side by side."""
    return [(count, len(list(run))) for count, run in groupby(counts[row] for row in going.tolist())]


@dataclass(frozen=True)
class _Learned:
    """Masks ``(N, 1, H, W)``, the steps ``(N,)`` of each, and its change ``(N,)`` over the last window."""

    masks: Tensor
    steps: Tensor
    change: Tensor

    def note(self) -> str:
        """The largest change so far known."""
        known = self.change[~self.change.isnan()]
        return f"change {float(known.max()):.4f}" if len(known) else ""


@dataclass(frozen=True)
class _Reward:
    """Reward of a mask: the query's logit of what it keeps, or minus that of what it leaves."""

    classifier: AnyClassifier
    query: Tensor
    replace: Replacement
    variant: Variant

    def __call__(self, masks: Tensor, *, flipped: bool, first: bool) -> Tensor:
        """``(N,)`` for ``masks (N, 1, H, W)``.

        Args:
            masks: of images.
            flipped: mirror what the classifier sees.
            first: look whether the query fits.
        """

        def logit(images: Tensor, query: Tensor) -> Tensor:
            logits = ask(self.classifier, images.flip(3) if flipped else images)
            return (query_score if first else known_query_score)(logits, query, "logit")

        match self.variant:
            case "preserve":
                return logit(self.replace(masks), self.query)
            case "delete":
                return -logit(self.replace(1 - masks), self.query)
            case "dual":
                both = torch.cat([self.replace(masks), self.replace(1 - masks)])
                kept, left = logit(both, self.query.repeat(2)).chunk(2)
                return kept - left
