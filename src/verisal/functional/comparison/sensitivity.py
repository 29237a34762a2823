"""Change of a map under a change of the image: small noise, or an attack."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import final

import torch
from torch import Tensor

from verisal._brief import brief
from verisal.errors import DataError
from verisal.functional.comparison.similarity import (
    attribution_of,
    defined_maps,
    postprocess,
    spearman,
    top_k_intersection,
)
from verisal.functional.seeding import series
from verisal.types import SaliencyResult, check_range

Explain = Callable[[Tensor, Tensor], SaliencyResult]


def uniform_noises(images: Tensor, *, radius: float, samples: int, seed: int = 0) -> Iterator[Tensor]:
    """Uniform noise in [-radius, radius], drawn one ``(B, C, H, W)`` sample after the other.

    Drawn by (seed, content of the image, number of the sample), so it is the same in any batch.

    Raises:
        ConfigError: a radius that is not positive, or ``samples`` below 1.
    """
    check_range(0, above=True, radius=radius)
    check_range(1, samples=samples)

    def draw(rng: torch.Generator) -> Tensor:
        return (2 * torch.rand(images.shape[1:], generator=rng) - 1) * radius

    return series(draw, images, samples=samples, seed=seed, stream="noise in a ball")


def sensitivity_max(
    explain: Explain,
    images: Tensor,
    *,
    query_class: Tensor,
    attribution: Tensor,
    noises: Iterable[Tensor],
    chunk_size: int = 64,
) -> Tensor:
    r"""Largest relative change of a map under small noise; low is good.

    .. math:: \max_d \lVert \Phi(x + d) - \Phi(x) \rVert_2 \; / \; \lVert \Phi(x) \rVert_2

    Divided once, after the maximum. Noisy images are clamped to [0, 1]; the class stays.

    Args:
        explain: images and query class to maps; its attribution is compared, or its map where it has none.
        images: ``(B, C, H, W)`` in [0, 1].
        query_class: ``(B,)`` int64.
        attribution: Phi(x), ``(B, C, H, W)``, what ``explain`` gave for the images themselves; one channel
            holds for all.
        noises: the samples d, each ``(B, C, H, W)``; :func:`uniform_noises` draws them.
        chunk_size: images explained at once, at least a batch.

    Returns:
        ``(B,)`` float64; NaN where a map is not finite or the map of the image itself is constant.

    Raises:
        ConfigError: ``chunk_size`` below 1.
        DataError: no noise, or maps of another shape than the attribution.

    References:
        yeh2019

    Differs from:
        - The authors' code divides inside the running maximum.
    """
    check_range(1, chunk_size=chunk_size)
    waiting, changes = iter(noises), []
    while group := list(islice(waiting, max(1, chunk_size // max(1, len(images))))):
        noisy = [(images + noise).clamp(0, 1) for noise in group]
        changes.append(_changes(explain, noisy, query_class, attribution))
    if not changes:
        raise DataError("sensitivity needs at least one noise sample, found none")
    values = torch.stack(changes).amax(dim=0) / _size(attribution.detach().flatten(1))
    return values.where(defined_maps(attribution) & values.isfinite(), torch.nan)


def _changes(explain: Explain, noisy: list[Tensor], query: Tensor, attribution: Tensor) -> Tensor:
    """``(B,)``: the largest norm of the change over several noisy copies of a batch."""
    maps = attribution_of(explain(torch.cat(noisy), query.repeat(len(noisy))))
    if maps.shape[2:] != attribution.shape[2:] or attribution.shape[1] not in {1, maps.shape[1]}:
        raise DataError(
            f"explain() gave maps {tuple(maps.shape[1:])} for noisy images, but those of the images are"
            f" {tuple(attribution.shape[1:])}; both must come from one method"
        )
    change = maps.detach().view(len(noisy), -1, *maps.shape[1:]) - attribution.detach()
    return _size(change.flatten(2)).amax(dim=0)


def _size(rows: Tensor) -> Tensor:
    # The ratio of two norms is that of two root mean squares, also where one channel stands for all.
    return rows.double().square().mean(dim=-1).sqrt()


@final
@dataclass(frozen=True)
class MapChange:
    """A map before and after, per image; NaN where either is undefined.

    Attributes:
        sensitivity: ``(B,)`` S_S; NaN also where the image is the same or a post-processed map constant.
        top_k: ``(B,)`` intersection over union of the k largest pixels.
        spearman: ``(B,)`` rank correlation over the pixels.
        shift: ``(B,)`` distance between the centres of mass, in pixels.
        shift_share: ``(B,)`` the same as a share of the image's diagonal.
    """

    sensitivity: Tensor
    top_k: Tensor
    spearman: Tensor
    shift: Tensor
    shift_share: Tensor

    __repr__ = brief


def map_change(
    attribution: Tensor, attacked: Tensor, *, l2: Tensor, percentile: float = 95.0, top_share: float = 0.1
) -> MapChange:
    r"""Change of maps under an attack.

    .. math:: S_S = \lVert E(x) - E(\hat x) \rVert_2 \; / \; \lVert x - \hat x \rVert_2

    with E post-processed (:func:`postprocess`) and pixels in [0, 1]. The other values compare the largest
    absolute attribution over the channels as it is.

    Args:
        attribution: ``(B, C, H, W)`` of the images.
        attacked: ``(B, C, H, W)`` of the attacked images; the number of channels may be another.
        l2: ``(B,)`` L2 norm of the change of each image.
        percentile: where post-processing cuts.
        top_share: k as a share of the pixels.

    Raises:
        ConfigError: a percentile or share out of range.
        DataError: shapes that differ.

    References:
        lu2021decoys, ghorbani2019fragile
    """
    maps, others = (part.detach().abs().amax(dim=1, keepdim=True) for part in (attribution, attacked))
    overlap = top_k_intersection(maps, others, top_share)
    before, after = (postprocess(part, percentile=percentile) for part in (attribution, attacked))
    moved = torch.linalg.vector_norm((before.double() - after.double()).flatten(1), dim=1)
    scored = defined_maps(before) & defined_maps(after) & (l2 > 0)
    defined = defined_maps(maps) & defined_maps(others)
    shift = torch.linalg.vector_norm(centre_of_mass(maps.double()) - centre_of_mass(others.double()), dim=1)
    height, width = maps.shape[-2:]
    return MapChange(
        sensitivity=(moved / l2.double()).where(scored, torch.nan),
        top_k=overlap,
        spearman=spearman(maps, others),
        shift=shift.where(defined, torch.nan),
        shift_share=(shift / (height**2 + width**2) ** 0.5).where(defined, torch.nan),
    )


def centre_of_mass(attribution: Tensor) -> Tensor:
    """Centre of mass of each map, ``(B, 2)`` as x and y in pixels, the first pixel's middle being 0.

    Args:
        attribution: ``(B, C, H, W)``; its map is the largest absolute value over the channels. A map of zeros
            has its centre at 0.

    >>> centre_of_mass(torch.tensor([[[[0.0, 1.0, 3.0]]]])).tolist()
    [[1.75, 0.0]]
    """
    shares = map_shares(attribution)
    down, across = (
        torch.arange(length, device=shares.device, dtype=shares.dtype) for length in shares.shape[-2:]
    )
    return torch.stack([(shares.sum(dim=1) * across).sum(dim=1), (shares.sum(dim=2) * down).sum(dim=1)], 1)


def map_shares(attribution: Tensor) -> Tensor:
    """Largest absolute value over the channels, as a share of the map's sum, ``(B, H, W)``."""
    maps = attribution.abs().amax(dim=1)
    return maps / maps.sum(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
