"""Maps of several settings against each other, and against what the method's own noise does to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verisal.errors import DataError
from verisal.functional.comparison.similarity import (
    pearson,
    spearman,
    spearman_of_pairs,
    ssim,
    top_k_intersection,
)
from verisal.functional.seeding import per_sample
from verisal.functional.statistics.resampled import Bootstrap
from verisal.results import Score


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
class Agreement:
    """Spearman similarities of the maps of several settings, per image; NaN where a map is undefined.

    Attributes:
        pairs: ``(P, B)``, all pairs of settings in the order of ``itertools.combinations``.
        similarity: ``(B,)`` median over the pairs; NaN where one of them is.
        floor: ``(B,)`` mean over the repeated settings; 1 where there are none.
        control: ``(B,)`` mean similarity of the settings to random maps.
    """

    pairs: Tensor
    similarity: Tensor
    floor: Tensor
    control: Tensor


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


def map_agreement(
    settings: Sequence[Tensor],
    *,
    image_ids: Sequence[str],
    repeats: Sequence[tuple[Tensor, Tensor]] = (),
    seed: int = 0,
) -> Agreement:
    """How alike the maps of several settings are on each image, beside the method's own noise.

    Args:
        settings: maps ``(B, 1, H, W)`` of at least two settings, for the same images.
        image_ids: B names, from which the random control is drawn.
        repeats: pairs of maps of one setting with different random masks; none for a deterministic method.
        seed: of the control.

    Raises:
        DataError: fewer than two settings, or maps of different shapes.
    """
    if len(settings) < 2:
        raise DataError(f"similarity between settings needs the maps of at least two, found {len(settings)}")
    pairs = spearman_of_pairs(settings)
    control = random_maps(settings[0], image_ids=image_ids, seed=seed)
    controls = torch.stack([spearman(maps, control) for maps in settings]).mean(dim=0)
    # The median of an even number of pairs is the mean of the middle two; NaN in any pair is NaN.
    between = pairs.quantile(0.5, dim=0)
    if repeats:
        floor = torch.stack([spearman(a, b) for a, b in repeats]).mean(dim=0)
    else:
        floor = torch.ones_like(between).where(~between.isnan(), torch.nan)
    return Agreement(pairs, between, floor, controls)


def compare_agreement(
    similarity: Tensor, floor: Tensor, control: Tensor, *, bootstrap: Bootstrap, deterministic: bool
) -> Comparison:
    """The verdict over images of :func:`map_agreement`.

    Args:
        similarity: ``(n,)``, as of :class:`Agreement`.
        floor: ``(n,)``, likewise.
        control: ``(n,)``, likewise.
        bootstrap: of the images.
        deterministic: whether the floor was stated, not measured.
    """
    between, noise, chance = (
        bootstrap.mean(values, kind="measure").score() for values in (similarity, floor, control)
    )
    known = not (math.isnan(between.high) or math.isnan(noise.low))
    return Comparison(between, noise, chance, deterministic, between.high < noise.low if known else None)


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
        settings: as of :func:`map_agreement`.
        image_ids: B names, from which the random control is drawn.
        repeats: as of :func:`map_agreement`.
        resamples: bootstrap resamples of images.
        seed: of the resampling and of the control.

    Raises:
        DataError: fewer than two settings, or maps of different shapes.
    """
    found = map_agreement(settings, image_ids=image_ids, repeats=repeats, seed=seed)
    return compare_agreement(
        found.similarity,
        found.floor,
        found.control,
        bootstrap=Bootstrap(resamples, seed=seed),
        deterministic=not repeats,
    )
