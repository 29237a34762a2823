"""Maps of several settings against each other, and against what the method's own noise does to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from verisal.errors import DataError
from verisal.types import Score

from ._intervals import bootstrap_mean
from ._seeding import per_sample
from .similarity import pearson, spearman, ssim, top_k_intersection

__all__ = ["Comparison", "map_similarities", "random_maps", "similarity_with_floor"]


def map_similarities(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """``spearman``, ``pearson``, ``ssim``, ``top_5``, ``top_10`` and ``top_20`` of two batches of maps.

    Args:
        a: ``(B, C, H, W)``.
        b: shaped like ``a``.

    Returns:
        Each ``(B,)`` float64; NaN where either map is undefined. ``top_k`` is the intersection over union of
        the largest k %.
    """
    tops = {f"top_{percent}": top_k_intersection(a, b, percent / 100) for percent in (5, 10, 20)}
    return {"spearman": spearman(a, b), "pearson": pearson(a, b), "ssim": ssim(a, b), **tops}


def random_maps(like: Tensor, *, image_ids: Sequence[str], seed: int = 0) -> Tensor:
    """Uniform maps in [0, 1) shaped ``like (B, ...)``, drawn by (seed, image id)."""
    shape = tuple(like.shape[1:])
    return per_sample(
        lambda generator: torch.rand(shape, generator=generator),
        seed=seed,
        sample_ids=image_ids,
        stream="random map",
        device=like.device,
    )


@dataclass(frozen=True)
class Comparison:
    """Spearman similarities, means over images with intervals.

    Attributes:
        similarity: per image the median over all pairs of settings.
        floor: the same setting run twice; 1 where the method is deterministic.
        control: maps of the settings against random maps.
        deterministic: whether the floor was stated, not measured.
        diverges: whether the similarity's interval lies wholly below the floor's; None where one is missing.
    """

    similarity: Score
    floor: Score
    control: Score
    deterministic: bool
    diverges: bool | None


def similarity_with_floor(
    settings: Sequence[Tensor],
    *,
    image_ids: Sequence[str],
    repeats: Sequence[tuple[Tensor, Tensor]] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Whether maps of several settings differ by more than the method's own noise.

    Args:
        settings: maps ``(B, 1, H, W)`` of at least two settings, for the same images.
        image_ids: B names, from which the random control is drawn.
        repeats: pairs of maps of one setting with different random masks; none for a deterministic method.
        resamples: bootstrap resamples of images.
        seed: of the resampling and of the control.

    Raises:
        DataError: fewer than two settings, or maps of different shapes.
    """
    if len(settings) < 2:
        raise DataError(f"similarity between settings needs the maps of at least two, found {len(settings)}")
    pairs = torch.stack([spearman(a, b) for a, b in combinations(settings, 2)])
    control = random_maps(settings[0], image_ids=image_ids, seed=seed)
    controls = torch.stack([spearman(maps, control) for maps in settings]).mean(dim=0)
    # The median of an even number of pairs is the mean of the middle two; NaN in any pair is NaN.
    between = pairs.quantile(0.5, dim=0)
    if repeats:
        noise = torch.stack([spearman(a, b) for a, b in repeats]).mean(dim=0)
    else:
        noise = torch.ones_like(between).where(~between.isnan(), torch.nan)
    similarity, floor, chance = (
        bootstrap_mean(values, resamples=resamples, seed=seed) for values in (between, noise, controls)
    )
    known = not (math.isnan(similarity.high) or math.isnan(floor.low))
    return Comparison(similarity, floor, chance, not repeats, similarity.high < floor.low if known else None)
