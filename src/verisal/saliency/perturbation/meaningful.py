r"""Meaningful perturbation: the smallest smooth region whose removal lowers the query's probability.

.. math:: \min_m \; \lambda_1 \sum |1 - m| + \lambda_2 \, TV_\beta(m) + p_c(\pi(x, b, \mathrm{up}(m)))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, Blur, bound, compose
from verisal.functional.comparison import total_variation
from verisal.functional.filters import gaussian_matrix
from verisal.functional.outputs import ask, output_of
from verisal.functional.scopes import in_chunks
from verisal.functional.seeding import derive_seed
from verisal.saliency._base import Saliency, explaining, known_query_score, query_score
from verisal.types import AnyClassifier, SaliencyResult, check_range

Replacement = Callable[[Tensor], Tensor]


@final
@dataclass(frozen=True, kw_only=True)
class MeaningfulPerturbation(Saliency):
    """Per-image optimisation of a coarse mask that removes evidence; saliency is ``1 - m``.

    Lengths are for images of 224 px and scale with ``min(H, W) / 224``; :meth:`sizes` gives those used.

    Args:
        l1_weight: lambda_1, on a *sum* over the cells of the coarse mask.
        tv_weight: lambda_2, on a *sum* over neighbouring cells.
        tv_power: beta, at least 1.
        steps: Adam steps.
        learning_rate: Adam's rate.
        mask_scale: pixels per cell of the coarse mask.
        mask_sigma: Gaussian blur of the upsampled mask, in pixels.
        jitter: width of the random shift of the perturbed images, in pixels, one shift per step.
        baseline: what replaces removed pixels.
        seed: of the shifts.
        chunk_size: images optimised at once; bounds memory, never changes the result beyond float rounding.

    Raises:
        ConfigError: values out of range.

    References:
        fong2017meaningful

    Differs from:
        - The mask starts at 1 everywhere, the authors' code from a blurred disc.
        - Pixels that a shift brings in repeat the border; the authors cut from a larger image.
    """

    l1_weight: float = 1e-4
    tv_weight: float = 1e-2
    tv_power: float = 3.0
    steps: int = 300
    learning_rate: float = 0.1
    mask_scale: int = 8
    mask_sigma: float = 5.0
    jitter: int = 4
    baseline: Baseline = field(default_factory=partial(Blur, sigma=10.0))
    seed: int = 0
    chunk_size: int = 16

    def __post_init__(self) -> None:
        check_range(1, steps=self.steps, chunk_size=self.chunk_size, mask_scale=self.mask_scale)
        check_range(0, above=True, learning_rate=self.learning_rate)
        check_range(0, l1_weight=self.l1_weight, tv_weight=self.tv_weight)
        check_range(0, mask_sigma=self.mask_sigma, jitter=self.jitter)
        check_range(1, tv_power=self.tv_power)

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        """``1 - m`` at image resolution, in [0, 1], in ``saliency`` and ``raw``."""
        with explaining(classifier, images, query_class) as (pixels, query):
            size = (pixels.shape[-2], pixels.shape[-1])
            baseline, lift = bound(self.baseline, classifier), self._lift(size, pixels.device)
            maps = [
                self._optimise(classifier, part, asked, replacement(baseline, part, asked), lift)
                for part, asked in in_chunks(pixels, query, self.chunk_size)
            ]
        saliency = torch.cat(maps)
        steps, name = self.steps, baseline.name
        return SaliencyResult(saliency, saliency, n_forward=steps, n_backward=steps, baseline=name)

    def sizes(self, height: int, width: int) -> dict[str, float]:
        """``mask_scale``, ``mask_sigma`` and ``jitter`` in pixels of an image of this size.

        Raises:
            ConfigError: the mask would have fewer than two cells along an axis.
        """
        scale = min(height, width) / 224
        cell = max(1, round(self.mask_scale * scale))
        check_grid(cell, height, width, f"mask_scale={self.mask_scale}")
        jitter = round(self.jitter * scale)
        return {"mask_scale": cell, "mask_sigma": self.mask_sigma * scale, "jitter": jitter}

    def _lift(self, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Upsampling and blur along each axis as one matrix, so that a step takes two small products."""
        sizes = self.sizes(*size)
        down, across = (_lift_matrix(n, int(sizes["mask_scale"]), sizes["mask_sigma"]) for n in size)
        return down.to(device), across.T.contiguous().to(device)

    def _optimise(
        self,
        classifier: AnyClassifier,
        images: Tensor,
        query: Tensor,
        replace: Replacement,
        lift: tuple[Tensor, Tensor],
    ) -> Tensor:
        down, across = lift
        mask = images.new_ones(len(images), 1, down.shape[1], across.shape[0], requires_grad=True)
        optimiser = torch.optim.Adam([mask], lr=self.learning_rate)
        output = output_of(classifier)
        jitter = int(self.sizes(images.shape[-2], images.shape[-1])["jitter"])
        rng = torch.Generator().manual_seed(derive_seed(self.seed, "meaningful", "jitter"))
        shifts = torch.randint(jitter + 1, (self.steps, 2), generator=rng).tolist()
        for step, (row, column) in enumerate(shifts):
            perturbed = _shifted(replace(down @ mask @ across), jitter, row, column)
            logits = ask(classifier, perturbed)
            scored = known_query_score if step else query_score
            score = scored(logits, query, "probability", output=output)
            removed = (1 - mask).abs().flatten(1).sum(dim=1)
            roughness = total_variation(mask, self.tv_power)
            objective = self.l1_weight * removed + self.tv_weight * roughness + score
            mask.grad = torch.autograd.grad(objective.sum(), mask)[0]
            optimiser.step()
            with torch.no_grad():
                mask.clamp_(0, 1)
        # Products of rows that sum to 1 only up to rounding may leave [0, 1] by as much.
        return (1 - down @ mask.detach() @ across).clamp(0, 1)


def replacement(baseline: Baseline, images: Tensor, query_class: Tensor) -> Replacement:
    """Function from masks ``(B, 1, H, W)`` to these images under them; 1 keeps, 0 shows the baseline.

    A baseline that depends on the mask is made anew for every mask, and is constant to the gradient.
    """
    if baseline.needs_mask:

        def replaced(masks: Tensor) -> Tensor:
            return compose(images, baseline(images, masks.detach(), query_class=query_class), masks)

        return replaced
    shown = baseline(images, query_class=query_class)
    return lambda masks: compose(images, shown, masks)


def check_grid(cell: int, height: int, width: int, setting: str) -> None:
    """Raise ``ConfigError`` unless cells of this many pixels give a mask of at least two by two."""
    if cell >= min(height, width):
        raise ConfigError(
            f"{setting} (for 224 px) makes cells of {cell} px, which a {height} x {width} px image cannot"
            " hold two of; choose a smaller one"
        )


def _lift_matrix(length: int, cell: int, sigma: float) -> Tensor:
    """``(length, ceil(length / cell))``: linear upsampling, then Gaussian blur."""
    cells = torch.eye(math.ceil(length / cell))[:, None]
    lifted = F.interpolate(cells, size=length, mode="linear", align_corners=False)[:, 0].T
    return gaussian_matrix(length, sigma) @ lifted


def _shifted(images: Tensor, jitter: int, row: int, column: int) -> Tensor:
    """Images moved by ``row - jitter // 2`` and ``column - jitter // 2`` pixels, their border repeated."""
    if jitter == 0:
        return images
    height, width = images.shape[-2:]
    before, after = jitter // 2, jitter - jitter // 2
    padded = F.pad(images, (before, after, before, after), mode="replicate")
    return padded[:, :, row : row + height, column : column + width]
